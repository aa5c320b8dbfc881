//go:build race

package integration

// buildArgs builds the binary with the race detector, too.
var buildArgs = []string{"-race"}

// moves is smaller here, because the race detector makes each move several times as long.
const moves = 8
