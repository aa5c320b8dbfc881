//go:build !race

package integration

var buildArgs []string
