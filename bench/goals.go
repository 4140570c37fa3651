//go:build linux

package main

import "math"

// A goal is what sendq is meant to reach, beside what was measured.
type goal struct {
	what     string
	bound    float64
	atMost   bool // or else at least
	measured float64
	in       unit
}

func (g *goal) reached() bool {
	if g.atMost {
		return g.measured <= g.bound
	}
	return g.measured >= g.bound
}

// times writes how many times something is something else.
func times(v float64) string { return significant(v) + "×" }

// atLeast is the goal that value is so many times base.
func atLeast(what string, bound float64, value, base figure) goal {
	return goal{what: what, bound: bound, measured: median(value) / median(base), in: times}
}

// atMost is the goal that value is no more times base than that.
func atMost(what string, bound float64, value, base figure) goal {
	g := atLeast(what, bound, value, base)
	g.atMost = true
	return g
}

// goalTable tells which goals were reached. Those that were not measured this time are left
// out.
func goalTable(goals []goal) table {
	t := table{name: "goals", title: "What sendq is meant to reach, and has in this run", head: []string{"", "goal", "measured", "reached"}}
	for _, g := range goals {
		if math.IsNaN(g.measured) {
			continue
		}
		bound, reached := "at least ", "no"
		if g.atMost {
			bound = "at most "
		}
		if g.reached() {
			reached = "yes"
		}
		t.row(g.what, bound+g.in(g.bound), g.in(g.measured), reached)
	}
	return t
}
