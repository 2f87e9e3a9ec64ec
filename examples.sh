#!/usr/bin/env bash
# bash examples.sh demo            the main job on the bundled photographs: minutes on a laptop without a GPU
# bash examples.sh test            linters, type check, tests
# bash examples.sh docs            the documentation as a site that needs no server and no network: site/index.html
# bash examples.sh bench [CASE...] speed and memory beside the published way of computing, full-size networks
# bash examples.sh gpu [PART...]   all that needs a GPU, in five minutes: tests, and train, headline and loop of bench
# bash examples.sh lowlight        low-light enhancement, trained and tested on synthetic pairs: minutes on two cores
# bash examples.sh latent          restoration, samples, transfers and the like with models trained for it: minutes
# bash examples.sh toy2d [...]     why affine couplings explode, on points in the plane: results/toy2d/
# bash examples.sh remedies        what bounds, boxes, fixed 1x1 convolutions and temperature change: an hour or more
# bash examples.sh TABLE [--small] all that a table or figure of a paper takes: table1, tableS1, tableS2, figS1,
#                                  srflow_figs, lowlight_figs; --small: the same with tiny networks, in minutes
# bash examples.sh mini --data DIR Table 1 in miniature on photographs in DIR, with training seeds: an hour or two
# bash examples.sh soft_affine     which robust map is robust++: the demo's network, training seeds: an hour
# bash examples.sh study KIND NAME [...]  temperature, best-of-n or seeds, of the model that confs/NAME.yml trained
# bash examples.sh NAME [...]      train and test confs/NAME.yml; resumes; more arguments go to train.py and test.py
# The first use makes .venv and installs the project there, unless a virtual environment is active: then it is used.
# From another folder: files and folders that flags name are those of that folder; all else is found and written here.
set -euo pipefail
caller=$PWD
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

# What a flag is given: a file or folder, if it is one, from where the caller is.
from_caller() {
    local flag=$1 value=$2
    case $value in
        "" | /* | "~"* | \$*) flag= ;;
    esac
    case $flag in
        --output) value=$caller/$value ;;
        --data | --input | --weights | --resume) [ ! -e "$caller/$value" ] || value=$caller/$value ;;
    esac
    printf '%s\n' "$value"
}

# Install the project, with an extra of pyproject.toml if one is named, unless that was done.
setup() {
    local environment=${VIRTUAL_ENV:-} extra=${1:-} wanted known
    if [ -z "$environment" ] && [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then
        environment=$CONDA_PREFIX
    fi
    if [ -z "$environment" ]; then
        environment=$PWD/.venv
        [ -f "$environment/bin/activate" ] || python3 -m venv "$environment"
        # shellcheck disable=SC1091
        source "$environment/bin/activate"
    fi
    wanted="$PWD $(cksum < pyproject.toml)"
    known=$(cat "$environment/.robustflow" 2> /dev/null || true)
    # Installed from elsewhere, or before pyproject.toml changed: all anew.
    [[ "$known " == "$wanted "* ]] || known=
    if [ -z "$known" ] || [[ -n $extra && "${known#"$wanted"} " != *" $extra "* ]]; then
        echo "installing into $environment (torch is large: minutes)" >&2
        python -m pip install --quiet --disable-pip-version-check -e ".${extra:+[$extra]}"
        echo "${known:-$wanted}${extra:+ $extra}" > "$environment/.robustflow"
    fi
}

demo_run() {
    local coupling=$1
    [ "$coupling" != affine_bounded ] || coupling="{type: affine, eps: 0.1}"
    local override="name=demo_runs/$1|network_G.flow.coupling=$coupling|logger.print_freq=300|train.val_freq=600"
    python train.py -opt confs/demo.yml --override "$override"
    python test.py -opt confs/demo.yml --override "$override" --quiet > /dev/null
}

demo() {
    # The model in the box first: pictures in seconds. Then three models of one's own.
    python test.py -opt confs/box_4x.yml --quiet > /dev/null
    echo "results/box_4x/report.html: the model in the box; now three couplings are trained, in minutes" >&2
    side_by_side "demo_run affine" "demo_run affine_bounded" "demo_run rq_spline"
    robustflow compare results/demo_runs/{affine,affine_bounded,rq_spline} --output results/demo
    echo "results/demo/summary.md, results/demo/gallery.png, results/demo/report.html"
}

lowlight_run() {
    local override="name=lowlight_runs/$1|network_G.flow.coupling=$1"
    python train.py -opt confs/lowlight_demo.yml --override "$override"
    robustflow ood fit -opt confs/lowlight_demo.yml --override "$override" \
        --patch 100 --n-patches 300
    robustflow ood rank -opt confs/lowlight_demo.yml --override "$override" > /dev/null
    python test.py -opt confs/lowlight_demo.yml --override "$override" > /dev/null
}

# Run "FUNCTION ARGUMENTS" side by side, a core each: networks as small as these gain little from a second one.
side_by_side() {
    local call job jobs=()
    # Process groups of their own, to be ended as a whole.
    set -m
    trap 'for job in $(jobs -p); do kill -INT -- "-$job" 2> /dev/null || true; done' EXIT
    for call in "$@"; do
        (export OMP_NUM_THREADS=1 TQDM_DISABLE=1; $call 2>&1) | (trap '' INT; exec sed -u "s/^/${call#* }: /" >&2) &
        jobs+=($!)
    done
    # Whichever ends first, so that a failure ends the others; bash before 4.3 knows only one after the other.
    for job in "${jobs[@]}"; do
        if [ $((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1])) -ge 403 ]; then wait -n; else wait "$job"; fi
    done
    set +m
}

lowlight() {
    side_by_side "lowlight_run affine" "lowlight_run rq_spline"
    local runs=(results/lowlight_runs/{affine,rq_spline})
    robustflow ood plot "${runs[@]}" --pooled --output results/lowlight/ood.png
    robustflow compare "${runs[@]}" --output results/lowlight
    echo "results/lowlight/summary.md, results/lowlight/gallery.png, results/lowlight/ood.png, results/lowlight/report.html"
}

latent_train() {
    local name options
    for name in "$@"; do
        case $name in
            affine) options="network_G.flow.coupling=affine|train.niter=2000" ;;
            rq_spline) options="network_G.flow.coupling=rq_spline|train.niter=1200" ;;
            shift) options="network_G.flow.coupling=affine|train.niter=2000|datasets.train.hr_shift=4" ;;
        esac
        options+="|train.ood_patches=0|train.val_freq=1000|val.n_sample=1|datasets.val.n_crops=4"
        python train.py -opt confs/demo.yml --resume auto --override "name=latent_runs/$name|$options"
    done
}

apply() {
    local model=$1 kind=$2
    shift 2
    robustflow apply "$kind" -opt confs/demo.yml --output "results/latent/$model" \
        --override "name=latent_runs/$model|network_G.flow.coupling=${model/shift/affine}" "$@"
}

latent() {
    side_by_side "latent_train affine rq_spline" "latent_train shift"
    local coupling model images=results/latent/images
    robustflow example images $images
    for coupling in affine rq_spline; do
        apply $coupling restore-study --degrade noise=20 jpeg=10 blur=1.5
        apply $coupling transfer-style --input $images/cat.png --reference $images/cup.png
        apply $coupling transfer-style --input $images/cup.png --reference $images/cat.png \
            --mask 8,56,104,80 --place 72,60
        apply $coupling encode --input $images/cat_and_print
    done
    for model in affine shift; do
        apply $model transfer-content --input $images/cat.png --reference $images/aside.png \
            --mask 5,50,105,90 --temperature 0.9
    done
    apply affine transfer-style --input $images/noisy.png --reference $images/noisy.png
    apply affine transfer-style --input $images/aside.png --reference $images/noisy.png --mask 8,56,104,80
    apply affine restore --input $images/noisy.png
    apply affine sample --input $images/cat_lr.png --reference $images/cat.png --n 4 --back-projection 10
    apply affine interpolate --input $images/cat_lr.png
    robustflow example picture results/latent
}

remedies() {
    local line name override flow=network_G.flow results=()
    while IFS= read -r line; do
        name=${line%% *} override="name=remedies/${line%% *}|${line#* }"
        python train.py -opt confs/remedies.yml --override "$override" --resume auto < /dev/null
        python test.py -opt confs/remedies.yml --override "$override" < /dev/null > /dev/null
        results+=("results/remedies/$name")
    done <<END
affine $flow.coupling=affine
affine_eps_0.01 $flow.coupling={type: affine, eps: 0.01}
affine_eps_0.1 $flow.coupling={type: affine, eps: 0.1}
affine_eps_0.3 $flow.coupling={type: affine, eps: 0.3}
affine_bounded_prior $flow.coupling=affine|$flow.split.max_log_scale=2
rq_spline $flow.coupling=rq_spline
rq_box_0.25 $flow.coupling={type: rq_spline, bounds: [-0.25, 0.25]}
rq_box_1 $flow.coupling={type: rq_spline, bounds: [-1, 1]}
rq_eps_0.01 $flow.coupling={type: rq_spline, eps: 0.01}
rq_orthogonal $flow.coupling=rq_spline|$flow.permutation_train=false
rq_no_split $flow.coupling=rq_spline|$flow.split.enable=false
robust+ $flow.coupling=rq_spline|$flow.split.max_log_scale=2
exp_affine $flow.coupling=exp_affine
inverse_affine $flow.coupling=inverse_affine
soft_affine $flow.coupling=soft_affine
soft_affine_bounded_prior $flow.coupling=soft_affine|$flow.split.max_log_scale=2
robust+_orthogonal $flow.coupling=rq_spline|$flow.split.max_log_scale=2|$flow.permutation_train=false
END
    robustflow compare "${results[@]}" --output results/remedies
    echo "results/remedies/summary.md, results/remedies/report.html"
}

check() {
    ruff check .
    ruff format --check .
    lint-imports
    mypy & # beside the tests
    local types=$!
    # Processes of one thread each; one more than cores, as some wait for others; up to eight, for memory.
    # Files in the order of tests/conftest.py: those that take long first.
    unset PYTHONDONTWRITEBYTECODE # or each of many processes compiles the package again
    python -m pytest -n "$(python -c 'from robustflow.utils import cpus; print(min(cpus.available() + 1, 8))')" \
        --dist loadfile --no-loadscope-reorder "$@"
    wait "$types" || { echo "mypy found mistakes, see above" >&2; exit 1; }
}

docs() {
    NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict --quiet
    echo "site/index.html"
}

# Run a part of the GPU checks for so many of 300 seconds (or of GPU_SECONDS); note it if it fails.
gpu_part() {
    local seconds=$(($1 * ${GPU_SECONDS:-300} / 300)) name=$2 status=0 start=$SECONDS child
    shift 2
    echo "== $name: at most $seconds s"
    # In a process group of its own, which is ended as a whole.
    timeout -k 5 "$seconds" "$@" &
    child=$!
    # shellcheck disable=SC2064
    trap "kill $child 2> /dev/null; exit 130" INT TERM
    wait "$child" || status=$?
    trap - INT TERM
    case $status in
        0) echo "== $name: passed in $((SECONDS - start)) s" ;;
        124 | 137) echo "== $name: NOT FINISHED in $seconds s" ;;
        *) echo "== $name: FAILED with status $status" ;;
    esac
    [ $status -eq 0 ] || gpu_failed+=" $name"
}

# Exit status: 0 all passed, 1 a part failed or was not finished, 2 there is no GPU and nothing was run.
gpu() {
    local gpu_failed="" part
    if ! python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
        echo "gpu: no CUDA device is here; nothing was checked" >&2
        exit 2
    fi
    export PYTHONUNBUFFERED=1 FAILURES_AT_ONCE=1
    # What matters most comes first, in each part, too: whether captured is uncaptured, and what a training step takes.
    [ $# -gt 0 ] || set -- training train tests headline loop
    for part in "$@"; do
        case $part in
            training) gpu_part 35 training python -m pytest -vv --tb=short tests/training/test_cuda_training.py ;;
            train) gpu_part 95 train python -m benchmarks train --repeats 2 ;;
            tests) gpu_part 60 tests python -m pytest -vv --tb=short \
                tests/gpu/test_{captured_sampling,same_numbers,crops_on_gpu,precision_on_gpu,published_on_gpu,nccl,threads}.py ;;
            headline) gpu_part 50 headline python -m benchmarks headline --repeats 2 ;;
            loop) gpu_part 60 loop python -m benchmarks loop --repeats 2 ;;
            *) echo "expected training, train, tests, headline or loop; got '$part'" >&2; exit 2 ;;
        esac
    done
    echo "gpu:${gpu_failed:- all passed}${gpu_failed:+ did not pass}"
    [ -z "$gpu_failed" ] || exit 1
}

# The option files read MINI_DATA, where the photographs are; --small makes its own.
mini() {
    local arguments=() data=""
    while [ $# -gt 0 ]; do
        case $1 in
            --data) data=${2:-}; shift $(($# > 1 ? 2 : 1)) ;;
            --data=*) data=${1#--data=}; shift ;;
            *) arguments+=("$1"); shift ;;
        esac
    done
    if [ -z "$data" ] && [[ " ${arguments[*]-} " != *" --small "* ]]; then
        echo "expected: bash examples.sh mini --data DIR, with bsds400, kodak24, urban20_x4, set5_x4, set14_x4 in DIR" >&2
        exit 2
    fi
    if [ -n "$data" ] && [ ! -d "$data" ]; then
        echo "--data: expected a folder, got '$data'" >&2
        exit 2
    fi
    [ -z "$data" ] || data=$(CDPATH='' cd -- "$data" && pwd)
    setup
    MINI_DATA=${data:-$PWD} exec robustflow reproduce mini ${arguments[@]+"${arguments[@]}"}
}

study() {
    local kind=${1:-} name=${2:-}
    if [ $# -lt 2 ] || [ ! -f "confs/$name.yml" ]; then
        echo "expected: bash examples.sh study temperature|best-of-n|seeds NAME, with confs/NAME.yml" >&2
        exit 2
    fi
    shift 2
    setup
    robustflow study "$kind" -opt "confs/$name.yml" "$@"
}

reproduce() {
    local name=$1
    shift
    if [ ! -f "confs/$name.yml" ]; then
        echo "expected demo, test, docs, mini, bench, gpu, lowlight, latent, toy2d, remedies, study, a table or figure of confs/recipes, or one of: $(cd confs && ls ./*.yml | sed 's|^\./||; s|\.yml$||' | xargs); got '$name'" >&2
        exit 2
    fi
    setup
    case $name in
        bicubic_* | esrgan_4x | rrdb_psnr_4x | box_4x*) ;; # nothing to train, or trained by others
        *) python train.py -opt "confs/$name.yml" --resume auto "$@" ;;
    esac
    python test.py -opt "confs/$name.yml" "$@"
}

command=${1:-}
[ $# -eq 0 ] || shift
if [ "$caller" != "$PWD" ]; then
    arguments=() flag=
    for word in "$@"; do
        case $word in
            --*=*) arguments+=("${word%%=*}=$(from_caller "${word%%=*}" "${word#*=}")") ;;
            -*) arguments+=("$word") ;; # a flag, not what the one before it is given
            *) arguments+=("$(from_caller "$flag" "$word")") ;;
        esac
        flag=$word
    done
    set -- ${arguments[@]+"${arguments[@]}"}
fi
case $command in
    demo | docs | lowlight | latent | remedies)
        [ $# -eq 0 ] || { echo "expected nothing after $command, got: $*" >&2; exit 2; } ;;
esac
case $command in
    "") sed -n '2,19s/^# //p' examples.sh; exit 2 ;;
    demo) setup; demo ;;
    test) setup test; check "$@" ;;
    docs) setup docs; docs ;;
    study) study "$@" ;;
    toy2d | toy2d_paper) setup; python train.py -opt "confs/$command.yml" "$@" ;;
    remedies) setup; remedies ;;
    lowlight) setup; lowlight ;;
    latent) setup; latent ;;
    gpu) python -c "import robustflow.models" 2> /dev/null || setup test; gpu "$@" ;;
    mini) mini "$@" ;;
    soft_affine | table1 | tableS1 | tableS2 | figS1 | srflow_figs | lowlight_figs) setup; exec robustflow reproduce "$command" "$@" ;;
    bench) setup; python -m benchmarks "$@" ;;
    *) reproduce "$command" "$@" ;;
esac
