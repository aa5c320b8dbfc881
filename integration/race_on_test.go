//go:build race

package integration

// buildArgs: tests under the race detector test a binary that has it, too.
var buildArgs = []string{"-race"}
