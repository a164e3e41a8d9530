#!/bin/sh
# Train one of the models for some minutes more, then let the learning rate fall, export
# and measure. The state at the constant rate is kept (stable.pt), so that this can be
# repeated for as long as there is time: every repetition goes on from there.
#
#   tools/train/continue.sh main 60 20     60 minutes at the constant rate, 20 of decay
#
# PYTHON names the interpreter; WORKERS the number of CPU processes (0 for a GPU).
set -eu
name=$1 flat=$2 fall=$3
python=${PYTHON:-python3}
run=.train/run-$name last=.train/final-$name
mix=tiny=0.42,storybook=0.04,fairy=0.05,book=0.01,talk=0.01,zh-verse=0.03,zh-plain=0.01,gen=0.13,chat=0.07,recall=0.23
common="--preset $name --workers ${WORKERS:-2} --validate-kinds tiny gen recall --validate-every 200 --mix $mix"

mkdir -p "$run" "$last"
[ ! -f "$run/stable.pt" ] || cp "$run/stable.pt" "$run/checkpoint.pt"
resume=
[ ! -f "$run/checkpoint.pt" ] || resume=--resume
# Half of the flat part at 1,024 tokens, the rest of the run at the full 2,048.
half=$((flat / 2))
if [ "$half" -gt 0 ]; then
  $python tools/train/train.py $common --out "$run" $resume --length 1024 --dense 0.6 --minutes "$half"
  $python tools/train/train.py $common --out "$run" --resume --length 2048 --dense 0.4 --minutes "$half"
fi
cp "$run/checkpoint.pt" "$run/stable.pt"
cp "$run/checkpoint.pt" "$run/log.jsonl" "$last/"
$python tools/train/train.py $common --out "$last" --resume --length 2048 --dense 0.4 --minutes "$fall" --decay-part 1
$python tools/train/export.py "$last/checkpoint.pt" ".train/model-$name"
$python tools/train/evaluate.py ".train/model-$name" --perplexity models/perplexity-sample.txt \
  --kinds --positions --recall --samples 5 --json "models/evaluation-$name.json"
