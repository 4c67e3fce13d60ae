#!/usr/bin/env bash
# Takes docs/images/audit.png: the top of the audit page of examples/digits.onnx. Needs unveil, Chromium and Pillow.
# Run it from the top of the repository: docs/images/take.sh
set -euo pipefail

chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m unveil audit examples/digits.onnx --inputs examples/digits.npz --report "$folder/audit.html" --weights --quiet || [ $? = 5 ]
"$chromium" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --user-data-dir="$folder/profile" --hide-scrollbars \
    --force-color-profile=srgb --window-size=1280,1330 --screenshot="$folder/page.png" "file://$folder/audit.html"
# Few colours are on the page: a palette keeps the file small.
python -c "
from PIL import Image
import sys
Image.open(sys.argv[1]).convert('RGB').crop((140, 30, 1140, 1300)).quantize(128, dither=Image.Dither.NONE).save(sys.argv[2], optimize=True)
" "$folder/page.png" docs/images/audit.png
ls -l docs/images/audit.png
