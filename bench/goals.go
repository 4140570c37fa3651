//go:build linux

package main

import "math"

// A goal is a bound for a measured value.
type goal struct {
	what     string
	bound    float64
	atMost   bool // bound is the maximum; otherwise the minimum
	measured float64
	in       unit
}

func (g *goal) reached() bool {
	if g.atMost {
		return g.measured <= g.bound
	}
	return g.measured >= g.bound
}

// times formats a ratio.
func times(v float64) string { return significant(v) + "×" }

// atLeast returns the goal value >= bound*base.
func atLeast(what string, bound float64, value, base figure) goal {
	return goal{what: what, bound: bound, measured: median(value) / median(base), in: times}
}

// atMost returns the goal value <= bound*base.
func atMost(what string, bound float64, value, base figure) goal {
	g := atLeast(what, bound, value, base)
	g.atMost = true
	return g
}

// goalTable returns a table of the goals and whether they were reached. It leaves out goals
// without a measurement in this run.
func goalTable(goals []goal) table {
	t := table{name: "goals", title: "Goals of sendq, and the results of this run", head: []string{"", "goal", "measured", "reached"}}
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
