"""How `CriticalPoints` reads ReLU networks: frames, rows, sightings, fits; and all of it again for noisy answers."""
