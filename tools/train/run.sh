#!/bin/sh
# The whole training of the built-in models, by steps: what made models/, with the same
# order of parts and the same mixes. Every part can be stopped (SIGTERM) and is skipped or
# continued when this is run again. State in .train/, token files in .train/tokens
# (prepare.py).
#
#   tools/train/run.sh main        the main model
#   tools/train/run.sh small       the small one (its embedding starts from the main model's)
#
# PYTHON names the interpreter, THREADS the number of CPU threads (default 1; a GPU is used if
# PyTorch finds one).
set -eu
which=$1
python=${PYTHON:-python3}
train="$python tools/train/train.py --threads ${THREADS:-1} --validate-kinds tiny gen"

# part NAME LAST_STEP ARGUMENTS...: train in .train/$run up to LAST_STEP, once.
part() {
  name=$1 last=$2
  shift 2
  [ ! -f ".train/$run/$name.done" ] || return 0
  resume=
  [ ! -f ".train/$run/checkpoint.pt" ] || resume=--resume
  $train --out ".train/$run" --stop-at "$last" "$@" $resume
  touch ".train/$run/$name.done"
}

measure() {
  $python tools/train/export.py ".train/$run/checkpoint.pt" ".train/model-$which"
  $python tools/train/evaluate.py ".train/model-$which" --perplexity models/perplexity-sample.txt \
    --kinds --positions --recall --samples 5 --json "models/evaluation-$which.json"
}

mkdir -p .train/first .train/main .train/small
case $which in
main)
  # 1. Language, from random weights: no lookup is learnt here.
  run=first
  part language 660 --preset main --length 1024 --batch 8192 --steps 660 --decay 93 --dense 0.4 \
    --mix tiny=0.42,storybook=0.05,fairy=0.06,book=0.02,talk=0.02,zh-verse=0.04,zh-plain=0.01,gen=0.13,chat=0.07,recall=0.18
  # 2. Heads for lookup, by hand; short dense rows teach the rest of the model to use them.
  run=main
  [ -f .train/start.pt ] || $python tools/train/heads.py .train/first/checkpoint.pt .train/start.pt --tokens .train/tokens
  part short 218 --init-from .train/start.pt --length 256 --batch 4096 --parts 2 --warmup 25 --dense 0.85 --answer-weight 4 \
    --muon-lr 0.012 --adam-lr 0.002 \
    --mix tiny=0.26,storybook=0.03,fairy=0.03,zh-verse=0.02,zh-plain=0.01,gen=0.12,chat=0.05,recall=0.48
  # 3. Long distances, then language (with a lower rate from step 514 on:
  # the heads had begun to drift), then both, up to full length, while the rate falls.
  part long 351 --length 1024 --batch 4096 --parts 2 --warmup 0 --dense 0.4 --answer-weight 4 --muon-lr 0.015 --adam-lr 0.003 \
    --mix tiny=0.40,storybook=0.03,fairy=0.04,book=0.01,talk=0.01,zh-verse=0.02,zh-plain=0.01,gen=0.14,chat=0.06,recall=0.28
  part language 514 --length 512 --batch 4096 --parts 2 --warmup 0 --dense 0.3 --answer-weight 4 --muon-lr 0.018 --adam-lr 0.003 \
    --mix tiny=0.46,storybook=0.03,fairy=0.05,book=0.01,talk=0.01,zh-verse=0.02,zh-plain=0.01,gen=0.16,chat=0.06,recall=0.19
  common="--length 512 --batch 4096 --parts 2 --warmup 0 --answer-weight 4 --muon-lr 0.012 --qk-rate 0.3 --adam-lr 0.002"
  part slower 729 $common --dense 0.4 \
    --mix tiny=0.44,storybook=0.03,fairy=0.05,book=0.01,talk=0.01,zh-verse=0.02,zh-plain=0.01,gen=0.15,chat=0.06,recall=0.22
  mix=tiny=0.50,storybook=0.03,fairy=0.05,book=0.01,talk=0.01,zh-verse=0.02,zh-plain=0.01,gen=0.17,chat=0.07,recall=0.13
  part falling 1349 $common --dense 0.3 --steps 1349 --decay 470 --end-rate 0.46 --mix $mix \
    --long-every 3 --long-length 2048 --long-mix tiny=0.30,storybook=0.04,fairy=0.04,gen=0.10,chat=0.02,recall=0.50
  part last 1713 $common --muon-lr 0.0055 --adam-lr 0.0009 --dense 0.2 --steps 1713 --decay 364 --mix $mix \
    --long-every 2 --long-length 2048 --long-mix tiny=0.26,storybook=0.03,fairy=0.03,gen=0.08,recall=0.60
  measure
  ;;
small)
  run=small
  part language 485 --preset small --embedding-from .train/main/checkpoint.pt --length 512 --batch 4096 --parts 2 --warmup 20 \
    --steps 485 --decay 345 --muon-lr 0.02 --adam-lr 0.003 --dense 0.4 --answer-weight 4 \
    --mix tiny=0.50,storybook=0.03,fairy=0.05,book=0.01,talk=0.01,zh-verse=0.02,zh-plain=0.01,gen=0.18,chat=0.07,recall=0.12
  measure
  ;;
*)
  echo "usage: tools/train/run.sh main|small" >&2
  exit 2
  ;;
esac
