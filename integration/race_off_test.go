//go:build !race

package integration

var buildArgs []string

// moves back and forth.
const moves = 40
