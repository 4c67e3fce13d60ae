"""Stored answers as files that other programs read."""

from __future__ import annotations

import codecs
import csv
import json
import math
from pathlib import Path

import numpy as np

from unveil.blackbox.answer_file import AnswerFile
from unveil.blackbox.store import read_answer
from unveil.outcome import StoreError
from unveil.writing import written


def export_answers(file: AnswerFile, out: Path) -> int:
    """Write all keys (in hexadecimal) and answers, sorted by key, as .csv, .jsonl or .npz.

    Returns:
        How many.

    Raises:
        StoreError: The file is damaged, or its answers differ in length and cannot be one array.
    """
    count = 0
    if out.suffix == ".npz":
        keys, answers = [], []
        for key, kept in file:
            keys.append(key.hex())
            answers.append(read_answer(kept))
        if len({len(answer) for answer in answers}) > 1:
            raise StoreError(f"the answers in {file.path} differ in length; export them as .csv or .jsonl")
        with written(out) as whole:
            np.savez(whole, keys=np.array(keys, dtype="U32"), answers=np.array(answers))
        return len(keys)
    with written(out) as whole:
        lines = codecs.getwriter("utf-8")(whole)
        table = csv.writer(lines)
        for key, kept in file:
            answer = read_answer(kept).tolist()
            if out.suffix == ".csv":
                table.writerow([key.hex(), *answer])
            else:
                # JSON has no NaN and no infinity: an answer that a model did not give is null.
                given = [None if isinstance(each, float) and not math.isfinite(each) else each for each in answer]
                lines.write(json.dumps({"key": key.hex(), "answer": given}, allow_nan=False) + "\n")
            count += 1
    return count
