//go:build !race

package migration

const raceDetector = false
