#!/bin/sh
# Build a TensorRT engine of every model here, on the machine that will run it: an engine fits one TensorRT and one GPU only.
#
#     ./build_engine.sh [--fp32] [--workspace MIB] [--print]
#
# Half precision unless --fp32; an int8 model keeps what it says of its layers, and the others are halved. TensorRT 11 takes the
# precision from the model alone. --workspace: memory the builder may use (512 MiB). --print: say what would be run. TRTEXEC
# names another trtexec.
# Part of a kit written by effvision (Apache-2.0).
set -eu

made_for="@TENSORRT@"
model_has="@PRECISION@" # fp32, fp16 or int8

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "error: $1"
    if [ $# -gt 1 ]; then say "  fix: $2"; fi
    exit 1
}

precision=fp16
workspace=512
print=false
while [ $# -gt 0 ]; do
    case "$1" in
    --fp32) precision=fp32 ;;
    --print) print=true ;;
    --workspace)
        [ $# -gt 1 ] || fail "--workspace takes a number of MiB"
        workspace=$2
        shift
        ;;
    -h | --help)
        sed -n '2,9s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *) fail "unknown option $1" "./build_engine.sh --help" ;;
    esac
    shift
done
case "$workspace" in
'' | 0* | *[!0-9]*) fail "--workspace takes a number of MiB, 1 or more; got '$workspace'" ;;
esac
cd "$(dirname "$0")"

# --- trtexec, and its version as major and minor ---

find_trtexec() {
    if [ -n "${TRTEXEC:-}" ]; then
        [ -x "$TRTEXEC" ] && printf '%s\n' "$TRTEXEC"
        return
    fi
    command -v trtexec && return
    for place in ${TRTEXEC_PLACES:-/usr/src/tensorrt/bin /usr/local/tensorrt/bin /opt/tensorrt/bin}; do
        if [ -x "$place/trtexec" ]; then
            printf '%s\n' "$place/trtexec"
            return
        fi
    done
}

# "[TensorRT v8502]" is 8.5.2, "[TensorRT v100300]" is 10.3.0; Debian writes 8.5.2-1+cuda11.4
find_version() {
    banner=$("$trtexec" --help 2>&1 | sed -n 's/.*\[TensorRT v\([0-9.]*\)\].*/\1/p' | sed -n 1p)
    case "$banner" in
    *.*) printf '%s\n' "$banner" | sed -n 's/^\([0-9]*\)\.\([0-9]*\).*/\1 \2/p' ;;
    ????) printf '%s\n' "$banner" | sed 's/^\(.\)\(.\)..$/\1 \2/' ;;
    ??????) printf '%s\n' "$banner" | sed 's/^\(..\)\(..\)..$/\1 \2/; s/ 0/ /' ;;
    *)
        dpkg-query -W -f='${Version}\n' libnvinfer-bin 2>/dev/null |
            sed -n 's/^\([0-9]*\)\.\([0-9]*\)\..*/\1 \2/p' | sed -n 1p
        ;;
    esac
}

trtexec=$(find_trtexec || true)
[ -n "$trtexec" ] || fail "there is no trtexec in PATH nor in /usr/src/tensorrt/bin" \
    "sudo apt-get install libnvinfer-bin, or TRTEXEC=/path/to/trtexec ./build_engine.sh"
version=$(find_version || true)
[ -n "$version" ] || fail "$trtexec does not say which TensorRT it belongs to, and no package libnvinfer-bin is installed" \
    "run '$trtexec --help' and read what it says"
major=${version% *}
minor=${version#* }
say "TensorRT $major.$minor ($trtexec)"

# --- the options of that version ---

[ "$major" -ge 8 ] || fail "TensorRT $major.$minor is too old" "JetPack 4.6 or newer has 8.2"
if [ "$major" -eq 8 ] && [ "$minor" -lt 4 ]; then
    memory="--workspace=$workspace"
    only_build=--buildOnly
elif [ "$major" -eq 8 ] && [ "$minor" -lt 6 ]; then
    memory="--memPoolSize=workspace:$workspace"
    only_build=--buildOnly
else
    memory="--memPoolSize=workspace:$workspace"
    only_build=--skipInference
fi
if [ "$major" -ge 11 ]; then
    half=--stronglyTyped
    [ "$major" -eq 11 ] || say "warning: TensorRT $major is newer than this script; taking the options of 11"
    case "$precision $model_has" in
    "fp16 fp32") say "note: TensorRT $major takes the precision from the model, which is float32" ;;
    "fp16 int8") say "note: TensorRT $major takes the precision from the model: int8, and float32 where it says nothing" ;;
    esac
elif [ "$model_has" = fp16 ]; then
    half=--fp16
    [ "$precision" = fp16 ] || say "note: this kit's model is in half precision already"
elif [ "$precision" = fp16 ]; then
    half=--fp16
else
    half=
fi
if [ -n "$made_for" ]; then
    kit_major=${made_for%.*}
    kit_minor=${made_for#*.}
    if [ "$major" -lt "$kit_major" ] || { [ "$major" -eq "$kit_major" ] && [ "$minor" -lt "$kit_minor" ]; }; then
        say "warning: this kit is for TensorRT $made_for or newer; $major.$minor may refuse the model"
        say "  fix: write the kit again with the --target of this machine"
    fi
fi

# --- build ---

part=
trap '[ -z "$part" ] || rm -f "$part"' EXIT
trap 'exit 1' HUP INT TERM
found=false
for model in model.onnx model-*.onnx; do
    [ -f "$model" ] || continue
    found=true
    engine=${model%.onnx}.engine
    part=.$engine.$$
    log=${model%.onnx}.build.log
    set -- "--onnx=$model" "--saveEngine=$part" "$memory" "$only_build" --timingCacheFile=timing.cache
    if [ -n "$half" ]; then set -- "$@" "$half"; fi
    if [ "$model_has" = int8 ] && [ "$major" -lt 11 ]; then set -- "$@" --int8; fi
    if $print; then
        printf '%s' "$trtexec"
        printf ' %s' "$@"
        printf '\n'
        continue
    fi
    say "building $engine from $model: minutes, up to half an hour on an old Nano; $log tells more"
    if ! "$trtexec" "$@" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "trtexec could not build $engine (its last lines are above, all of them in $log)" \
            "if memory ran out: close other programs, add swap, or a smaller --workspace"
    fi
    [ -s "$part" ] || fail "trtexec said nothing was wrong, but wrote no engine; see $log"
    rm -f "$engine.from"
    mv -f "$part" "$engine"
    part=
    if command -v sha256sum >/dev/null; then  # runner.py refuses an engine of another model
        sha256sum "$model" | cut -d ' ' -f 1 >"$engine.from"
    fi
    say "wrote $engine; check it: python3 runner.py --engine $engine --verify golden.npz"
done
$found || fail "there is no model.onnx beside this script" "copy the whole kit"
