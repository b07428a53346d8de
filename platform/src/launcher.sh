#!/bin/bash
# Stands in for the lifecycle's launcher in an image of the platform's: applies the layers' launch
# environment (see process.rs, whose rules these are), and executes a process type's command, or
# the command given. Left out: exec.d.

if [ "$1" = -- ]; then shift; fi
type=${0##*/}
if [ "$type" = launcher ]; then type=; fi
directory=$CNB_APP_DIR
case $type in
@processes@
esac

apply() {
    local dir=$1 file name value delim before
    for file in "$dir"/*; do
        [ -f "$file" ] || continue
        file=${file##*/}
        name=${file%%.*}
        value=$(cat "$dir/$file"; printf x); value=${value%x}
        delim=
        if [ -f "$dir/$name.delim" ]; then delim=$(cat "$dir/$name.delim"; printf x); delim=${delim%x}; fi
        before=${!name-}
        case ${file#"$name"} in
            '' | .override) ;;
            .default) [ -z "$before" ] || continue ;;
            .prepend) value=$value${before:+$delim$before} ;;
            .append) value=${before:+$before$delim}$value ;;
            *) continue ;;
        esac
        export "$name=$value"
    done
}

PATH=${PATH#/cnb/process:/cnb/lifecycle:}
for layer in "$CNB_LAYERS_DIR"/*/*/; do
    layer=${layer%/}
    if [ -e "$layer/bin" ]; then PATH=$layer/bin:$PATH; fi
    if [ -e "$layer/lib" ]; then export LD_LIBRARY_PATH=$layer/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}; fi
done
for layer in "$CNB_LAYERS_DIR"/*/*/; do
    layer=${layer%/}
    apply "$layer/env"
    apply "$layer/env.launch"
    if [ -n "$type" ]; then apply "$layer/env.launch/$type"; fi
done
unset CNB_LAYERS_DIR CNB_APP_DIR CNB_PLATFORM_API
cd "$directory" || exit
exec env -u SHLVL -u OLDPWD -u PWD -u _ "$@"
