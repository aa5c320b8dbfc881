//go:build !race

package integration

var buildArgs []string

// moves is how many times a test moves a guest back and forth.
const moves = 40
