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
    system "go", "build", *std_go_args(output: sbin/"smtpd", ldflags: "-s -w"), "./cmd/opensmtpd"
    system "go", "build", *std_go_args(output: sbin/"smtpctl", ldflags: "-s -w"), "./cmd/smtpctl"
    Dir["cmd/mail.*", "cmd/filter-*"].each do |dir|
      system "go", "build", *std_go_args(output: libexec/File.basename(dir), ldflags: "-s -w"), "./#{dir}"
    end
    # Not linked: sendmail and mailq of the system stay what they are.
    %w[sendmail mailq newaliases makemap].each { |name| (libexec/"bin").install_symlink sbin/"smtpctl" => name }
    man5.install Dir["man/*.5"]
    man7.install Dir["man/*.7"]
    man8.install Dir["man/*.8"]
    inreplace "packaging/smtpd.conf", /^listen on lo$/, "listen on lo0"
    etc.install "packaging/smtpd.conf"
  end

  service do
    run [opt_sbin/"smtpd", "-F", "-f", etc/"smtpd.conf", "-o", "libexec=#{opt_libexec}"]
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
