# Builds from the repository. The daemon binds port 25 and changes users, so its
# service runs as root; it wants two users, see the caveats.
class Opensmtpd < Formula
  desc "Mail transfer agent with the configuration language of OpenBSD's smtpd"
  homepage "https://github.com/opensmtpd/opensmtpd"
  license "ISC"
  head "https://github.com/opensmtpd/opensmtpd.git", branch: "main"

  depends_on "go" => :build

  def install
    ENV["CGO_ENABLED"] = "0"
    programs = Dir["cmd/*"].map { |dir| File.basename(dir) } - ["auth-pam"]
    programs.each do |name|
      system "go", "build", *std_go_args(output: buildpath/"built"/name, ldflags: "-s -w"), "./cmd/#{name}"
    end
    # sendmail and mailq of the system stay what they are: here they are in libexec/bin.
    system "packaging/install", "-s", "darwin", "-p", prefix, "built"
    %w[sendmail mailq newaliases makemap].each { |name| (libexec/"bin").install_symlink sbin/"smtpctl" => name }
    inreplace "packaging/smtpd.conf", /^listen on lo$/, "listen on lo0"
    etc.install "packaging/smtpd.conf"
  end

  service do
    run [opt_sbin/"smtpd", "-F", "-f", etc/"smtpd.conf", "-o", "libexec=#{opt_libexec}/opensmtpd"]
    require_root true
    keep_alive successful_exit: false
    error_log_path var/"log/opensmtpd.err"
  end

  def caveats
    <<~EOS
      The daemon runs as root and needs the users _smtpd and _smtpq, with free ids:
        sudo dscl . -create /Groups/_smtpd PrimaryGroupID 395
        sudo dscl . -create /Users/_smtpd UniqueID 395
        sudo dscl . -create /Users/_smtpd PrimaryGroupID 395
        sudo dscl . -create /Users/_smtpd UserShell /usr/bin/false
        sudo dscl . -create /Users/_smtpd NFSHomeDirectory /var/empty
      and the same for _smtpq with another id.
    EOS
  end

  test do
    assert_match "configuration OK", shell_output("#{sbin}/smtpd -n -f #{etc}/smtpd.conf 2>&1")
  end
end
