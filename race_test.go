//go:build race

package sendq_test

// underRace reports whether the race detector is on, which makes everything slower.
const underRace = true
