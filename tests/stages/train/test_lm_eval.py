"""lm-evaluation-harness runs on the folder of a trained policy, as docs/judge.md says: a tiny task, no download."""

import json
import subprocess
import sys

import pytest
from text_runs import scored_text_run

from scoreonce.stages.train.stage import train

TASK = """\
task: tiny
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
"""


@pytest.mark.long
def test_it_evaluates_a_policy(tmp_path):
    """Of every question it gives the accuracy of the policy's likelier choice, which transformers gives too."""
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: make test-slow installs it")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = train(scored_text_run(tmp_path).replace({"train.batch_pairs": 4, "train.learning_rate": 0.01})).model
    choices = [" yes", " no"]
    rows = [{"question": f"Is {each} even?", "choices": choices, "answer": each % 2} for each in range(10)]
    file, tasks, out = tmp_path / "rows.jsonl", tmp_path / "tasks", tmp_path / "results"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks.mkdir()
    (tasks / "tiny.yaml").write_text(TASK.format(file=file))
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={policy},dtype=float32"]
    command += ["--tasks", "tiny", "--include_path", str(tasks), "--device", "cpu", "--output_path", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = [json.loads(path.read_text()) for path in out.rglob("results*.json")]
    found = results["results"]["tiny"]["acc,none"]

    tokenizer, model = AutoTokenizer.from_pretrained(policy), AutoModelForCausalLM.from_pretrained(policy)
    right = 0
    for row in rows:
        prompt, sums = tokenizer(row["question"])["input_ids"], []
        for choice in choices:
            ids = tokenizer(row["question"] + choice)["input_ids"]
            with torch.inference_mode():
                logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            sums.append(sum(logps[at - 1, ids[at]].item() for at in range(len(prompt), len(ids))))
        right += sums.index(max(sums)) == row["answer"]
    assert found == pytest.approx(right / len(rows))
