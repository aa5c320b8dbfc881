#!/bin/sh
# A shell script as a task: `tagged task script`, with vmm-tag exec. The run of sleep is a segment,
# and everything but the run of stretch.sh is one.
last=0 inside=0 outside=0 stretches=0
say() { echo "script: $1 epoch=$last inside=$inside outside=$outside stretches=$stretches."; }
say tagged
while vmm-tag exec -- sleep 1; do
  vmm-tag exec --between -- sh /bin/stretch.sh >/tmp/stretch
  read -r before after </tmp/stretch
  moved=$((before - last))
  stretches=$((stretches + 1)) inside=$((inside + moved)) outside=$((outside + after - before))
  last=$after
  [ "$after" = "$before" ] || say "FAULT: moved outside of its segment,"
  [ $moved = 0 ] || say moved
done
