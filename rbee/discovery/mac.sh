# The address of this machine's network card, as one line after a mark. POSIX sh; changes nothing.
# The card that the other side of the SSH connection is reached by, else the one to the rest of the
# world: a VPN, which a connection may go through, has no card.
LC_ALL=C; export LC_ALL
PATH="$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"; export PATH
set -f; set -- $SSH_CONNECTION; peer=${1%%%*}
told() {
  case "$1" in
    '' | 00:00:00:00:00:00) ;;
    *) printf '\nrbee-mac %s\n' "$1"; exit 0 ;;
  esac
}
ether() {
  ifconfig "$1" 2>/dev/null | sed -n 's/^[[:space:]]*ether \([0-9a-fA-F:]*\).*/\1/p' | head -n 1
}
card() {
  case "$1" in '' | lo | lo0 | */* | .* | -*) return ;; esac
  if [ -d "/sys/class/net/$1" ]; then
    # 1: Ethernet, and WLAN, too
    [ "$(cat "/sys/class/net/$1/type" 2>/dev/null)" = 1 ] || return
    told "$(cat "/sys/class/net/$1/address" 2>/dev/null)"
  else
    told "$(ether "$1")"
  fi
}
dev() { sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1; }
via() { sed -n 's/^ *interface: *\([^ ]*\).*/\1/p' | head -n 1; }
if [ "$(uname -s)" = Darwin ]; then
  case "$peer" in
    '') ;;
    *:*) card "$(route -n get -inet6 "$peer" 2>/dev/null | via)" ;;
    *) card "$(route -n get "$peer" 2>/dev/null | via)" ;;
  esac
  card "$(route -n get default 2>/dev/null | via)"
else
  [ -n "$peer" ] && card "$(ip route get "$peer" 2>/dev/null | dev)"
  card "$(ip route show default 2>/dev/null | dev)"
  card "$(awk '$2 == "00000000" { print $1; exit }' /proc/net/route 2>/dev/null)"
fi
exit 0
