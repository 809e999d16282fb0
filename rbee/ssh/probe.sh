# What this machine is, as one line of JSON after a mark. POSIX sh; changes nothing; $1: where rbee
# is installed, or empty for the usual place; $2: a Python to look at before all others, or empty.
LC_ALL=C; export LC_ALL
PATH="$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/opt/homebrew/bin:$HOME/.local/bin"
export PATH
have() { command -v "$1" >/dev/null 2>&1; }
text() { # a JSON string of the first line of $1, at most 200 characters
  printf '"'
  printf '%s\n' "$1" | head -n 1 | cut -c 1-200 | tr -d '\000-\037\177' | sed 's/\\/\\\\/g; s/"/\\"/g'
  printf '"'
}
value() { printf '"%s":' "$1"; text "$2" | tr -d '\n'; printf ','; }
number() { case "$2" in '' | *[!0-9]*) printf '"%s":null,' "$1" ;; *) printf '"%s":%s,' "$1" "$2" ;; esac; }
list() { # name, then lines on stdin
  printf '"%s":[' "$1"; between=''
  while IFS= read -r line; do
    [ -n "$line" ] || continue
    printf '%s' "$between"; text "$line" | tr -d '\n'; between=','
  done
  printf '],'
}
briefly() { if have timeout; then timeout 20 "$@"; else "$@"; fi; }

os=$(uname -s)
name=''; libc=''; memory=''; free=''; cores=''; cpu=''
if [ "$os" = Darwin ]; then
  name="macOS $(sw_vers -productVersion 2>/dev/null)"
  memory=$(sysctl -n hw.memsize 2>/dev/null)
  cores=$(sysctl -n hw.ncpu 2>/dev/null)
  cpu=$(sysctl -n machdep.cpu.features machdep.cpu.leaf7_features machdep.cpu.extfeatures 2>/dev/null
    sysctl hw.optional.arm 2>/dev/null | sed -n 's/^hw\.optional\.arm\.\(FEAT_[A-Za-z0-9_]*\): 1$/\1/p')
else
  [ -r /etc/os-release ] && name=$(. /etc/os-release 2>/dev/null; printf '%s' "$PRETTY_NAME")
  libc=$(getconf GNU_LIBC_VERSION 2>/dev/null)
  if [ -z "$libc" ]; then
    for loader in /lib/ld-musl-*.so.1; do
      [ -e "$loader" ] && libc="musl $("$loader" 2>&1 | sed -n 's/^Version //p' | head -n 1)"
    done
  fi
  memory=$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo 2>/dev/null)
  free=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo 2>/dev/null)
  [ -n "$memory" ] && memory=$((memory * 1024))
  [ -n "$free" ] && free=$((free * 1024))
  cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || nproc 2>/dev/null)
  cpu=$(sed -n 's/^\(flags\|Features\)[[:space:]]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
fi
root=${1:-${XDG_DATA_HOME:-$HOME/.local/share}/rbee}
there=$root
while [ ! -d "$there" ]; do case "$there" in */*) there=${there%/*} ;; *) there='' ;; esac
  [ -n "$there" ] || there=/; done
disk=$(df -Pk "$there" 2>/dev/null | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4)
case "$disk" in '' | *[!0-9]*) disk='' ;; *) disk=$((disk * 1024)) ;; esac
extra=${2:-}

pythons() {
  for python in "$extra" python3 python3.14 python3.13 python3.12 python3.11 "$root"/python/*/bin/python3 \
    "$HOME"/.local/share/uv/python/*/bin/python3 "$HOME"/.pyenv/versions/*/bin/python3 \
    /opt/homebrew/bin/python3.1*; do
    have "$python" || continue
    briefly "$python" -I -c '
import importlib.util as u, json, os, sys
if sys.version_info >= (3, 11):
    print(json.dumps({
        "path": os.path.abspath(sys.executable),
        "version": "%d.%d.%d" % sys.version_info[:3],
        "venv": all(map(u.find_spec, ("venv", "ensurepip"))),
        "bare": u.find_spec("venv") is not None,
        "bits": 64 if sys.maxsize > 1 << 32 else 32,
    }))' 2>/dev/null </dev/null
  done | while IFS= read -r line; do
    case "$line" in '{'*'}') printf '%s%s' "$between" "$line"; between=',' ;; esac
  done
}
gpus() {
  have nvidia-smi && briefly nvidia-smi --query-gpu=name,memory.total,driver_version \
    --format=csv,noheader,nounits 2>/dev/null </dev/null | sed 's/^/nvidia, /' | grep -v -i error
  [ "$os" = Darwin ] && [ "$(uname -m)" = arm64 ] &&
    echo "metal, $(sysctl -n machdep.cpu.brand_string 2>/dev/null), , "
  [ -e /dev/kfd ] && echo 'amd, , , '
  for driver in /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json; do
    [ -e "$driver" ] && [ -e /dev/dri/renderD128 ] && echo "vulkan, ${driver##*/}, , "
  done
}
libs() { # those that compiled code needs and small systems leave out
  for lib in libgomp.so.1 libstdc++.so.6 libgcc_s.so.1; do
    for folder in /lib /usr/lib /lib64 /usr/lib64 /usr/local/lib /lib/*-linux-* /usr/lib/*-linux-*; do
      [ -e "$folder/$lib" ] && echo "$lib" && break
    done
  done
}
first() { for tool; do if have "$tool"; then command -v "$tool"; return; fi; done; }

printf '\nrbee-probe {'
value os "$os"
value arch "$(uname -m)"
value kernel "$(uname -r)"
value name "$name"
value libc "$libc"
value user "$(id -un 2>/dev/null)"
value home "$HOME"
value shell "$SHELL"
value root "$root"
number cores "$cores"
number memory "$memory"
number memory_free "$free"
number disk_free "$disk"
printf '"pythons":['; between=''; pythons; printf '],'
gpus | list gpus
for folder in "$root"/versions/*/; do
  folder=${folder%/}
  [ -x "$folder/bin/rbee" ] && [ ! -e "$folder/.incomplete" ] && echo "${folder##*/}"
done | list installed
current=$(readlink "$root/current" 2>/dev/null)
value current "${current##*/}"
previous=$(readlink "$root/previous" 2>/dev/null)
value previous "${previous##*/}"
if [ -x "$root/bin/uv" ]; then value uv "$root/bin/uv"; else value uv "$(first uv)"; fi
list libs <<END
$(libs)
END
printf '"cpu":"%s",' "$(printf '%s' "$cpu" | tr '\n' ' ' | tr -cd 'A-Za-z0-9_. -' | cut -c 1-6000)"
# on a Mac, c++ is there without the tools and opens a window that offers them
if [ "$os" = Darwin ] && ! xcode-select -p >/dev/null 2>&1; then value compiler ''
else value compiler "$(first c++ g++ clang++)"; fi
printf '"end":true}\n'
