"""Notes of eight hospitals that nobody ever wrote: a ward, a complaint, a finding, in each hospital's own way."""

from __future__ import annotations

import csv
import random
from pathlib import Path

WARDS = {
    "cardiology": (
        ["chest pain on exertion", "palpitations at night", "swollen ankles", "breathless on the stairs"],
        ["a systolic murmur", "atrial fibrillation on the trace", "a raised troponin", "a reduced ejection fraction"],
    ),
    "neurology": (
        ["a sudden headache", "weakness of the left arm", "a seizure at work", "numb fingers"],
        ["brisk reflexes", "a small infarct on the scan", "slow waves on the recording", "a visual field defect"],
    ),
    "orthopaedics": (
        ["a fall on the hip", "a locked knee", "pain in the lower back", "a swollen wrist after sport"],
        ["a displaced fracture on the film", "a torn meniscus", "limited rotation", "a tender scaphoid"],
    ),
    "dermatology": (
        ["an itching rash", "a mole that grew", "blisters on both hands", "hair loss in patches"],
        ["scaly plaques on the elbows", "an irregular border", "raised weals", "a positive patch test"],
    ),
}
OPENINGS = ("Seen today with", "Referred for", "Admitted with", "Comes back because of", "Walk-in with")
HOSPITALS = {
    **{"north": 160, "university": 240, "harbour": 60, "valley": 50},
    **{"lake": 40, "station": 40, "hill": 30, "island": 20},
}
"""Hospital -> how many notes it has."""


def notes(seed: int = 0) -> list[tuple[str, str, str]]:
    """Note, ward and hospital of every row; each hospital has a ward that it sees most of."""
    draw = random.Random(seed)
    rows = []
    for number, (hospital, count) in enumerate(HOSPITALS.items()):
        weights = [4 if place == number % len(WARDS) else 1 for place in range(len(WARDS))]
        for _ in range(count):
            ward = draw.choices(list(WARDS), weights)[0]
            complaints, findings = WARDS[ward]
            note = f"{draw.choice(OPENINGS)} {draw.choice(complaints)}, for {draw.randint(1, 12)} days."
            if number % 2 or draw.random() < 0.5:
                note += f" On examination {draw.choice(findings)}."
            rows.append((note, ward, hospital))
    return rows


if __name__ == "__main__":
    with Path("notes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["note", "ward", "hospital"])
        table.writerows(notes())
