# shellcheck shell=bash disable=SC2154 # a script sets messages, sessions and bytes
# What the scripts of this directory share: a directory with a file system of its own,
# Postfix with a queue in it, and the ways to load and to measure a daemon. To be
# read after "set -euo pipefail".

# setup makes $dir, with $dir/mnt on an ext4 image with a journal, as servers have,
# and builds our programs into $dir/bin.
setup() {
	dir=$(mktemp -d)
	trap cleanup EXIT
	chmod 755 "$dir"
	mkdir "$dir/mnt" "$dir/bin"
	dd if=/dev/zero of="$dir/disk" bs=4M count=512 oflag=direct status=none
	mkfs.ext4 -q -i 8192 -E lazy_itable_init=0,lazy_journal_init=0 "$dir/disk"
	loop=$(losetup --direct-io=on -f --show "$dir/disk")
	mount "$loop" "$dir/mnt"
	chmod 755 "$dir/mnt"
	(cd .. && CGO_ENABLED=0 go build -o "$dir/bin/" ./cmd/opensmtpd ./cmd/smtpctl)
}

cleanup() {
	# shellcheck disable=SC2046 # a list of numbers; those of a run that was broken off
	[ -z "$(jobs -p)" ] || pkill -P "$(jobs -p | paste -sd,)" || kill $(jobs -p) || true
	for m in "${mounts[@]:-}"; do
		[ -n "$m" ] && umount -l "$m"
	done
	mountpoint -q "$dir/mnt" && umount -l "$dir/mnt"
	[ -n "${loop:-}" ] && losetup -d "$loop"
	rm -rf "$dir"
}

# load PORT RECIPIENT: sends the messages.
load() {
	smtp-source -s "$sessions" -l "$bytes" -m "$messages" -f sender@example.net -t "$2" "127.0.0.1:$1"
}

# cpu FILE: the CPU seconds per 1,000 messages of what ran under time.
cpu() {
	awk -v n="$messages" '/^(user|sys)/ { s += $2 } END { printf "%.3f CPU s per 1,000\n", s * 1000 / n }' "$1"
}

# rate NANOSECONDS: the messages per second.
rate() {
	awk -v n="$messages" -v ns="$1" 'BEGIN { printf "%.0f messages/s", n * 1e9 / ns }'
}

wait_port() {
	for _ in $(seq 300); do
		(exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
		sleep 0.1
	done
	echo "nothing listens on port $1" >&2
	tail -n 5 "$dir"/*log >&2
	exit 1
}

# postfix_config PORT: a Postfix in $dir/etc that listens on the port, keeps its
# queue on the file system of the test, and is not chrooted. The standard input is
# added to main.cf.
postfix_config() {
	mkdir "$dir/etc" "$dir/mnt/queue" "$dir/mnt/data"
	cp /etc/postfix/master.cf /etc/postfix/dynamicmaps.cf "$dir/etc/" 2>/dev/null || cp /usr/share/postfix/master.cf.dist "$dir/etc/master.cf"
	[ -d /etc/postfix/dynamicmaps.cf.d ] && cp -r /etc/postfix/dynamicmaps.cf.d "$dir/etc/"
	sed -i "/^[^ #]/s/^\([^ ]* *[^ ]* *[^ ]* *[^ ]* *\)y /\1n /; s/^smtp  *inet/127.0.0.1:$1 inet/" "$dir/etc/master.cf"
	chown postfix "$dir/mnt/data"
	cat >"$dir/etc/main.cf" <<C
compatibility_level = 3.6
queue_directory = $dir/mnt/queue
data_directory = $dir/mnt/data
myhostname = mx.example.org
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
maillog_file = /dev/null
maillog_file_prefixes = /dev
C
	cat >>"$dir/etc/main.cf"
}

# in_namespace SCRIPT ARGS...: runs the script again where it may change what it
# wants: users, mounts and a loopback network of its own.
in_namespace() {
	[ "${BENCH_NAMESPACE:-}" = yes ] && return
	BENCH_NAMESPACE=yes exec unshare --net sh -c 'ip link set lo up && exec ../test/system/run -shell "$@"' sh "$@"
}
