#!/bin/sh
# Write docker/.env with a random secret for each service; never over one that is there.
set -eu
file="$(dirname "$0")/.env"
if [ -e "$file" ]; then
    echo "error: $file exists, should not: its secrets are those of the databases" >&2
    exit 1
fi
umask 077
for name in POSTGRES OBJECTS PREFECT MLFLOW FLASK; do
    echo "ASSAY_${name}_SECRET=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')"
done >"$file"
echo "wrote $file"
