//go:build race

package integration

// buildArgs: tests under the race detector test a binary that has it, too.
var buildArgs = []string{"-race"}

// moves back and forth: the race detector makes each several times as long.
const moves = 8
