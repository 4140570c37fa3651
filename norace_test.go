//go:build !race

package sendq_test

const underRace = false
