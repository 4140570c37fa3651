//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMarkdown(t *testing.T) {
	table := table{title: "Title", head: []string{"", "a", "b"}, notes: []string{"A note."}}
	table.row("x", "1", "2")
	var b strings.Builder
	table.markdown(&b, "Origin.")
	require.Equal(t, "**Title**\n\n|  | a | b |\n| --- | ---: | ---: |\n| x | 1 | 2 |\n\nA note.\nOrigin.\n", b.String())

	b.Reset()
	table.short(&b, "Origin.")
	require.Equal(t, "**Title**\n\n|  | a | b |\n| --- | ---: | ---: |\n| x | 1 | 2 |\n\nOrigin.\n", b.String())
	require.Len(t, table.notes, 1)
}

func TestReplaceBlocks(t *testing.T) {
	const readme = "before\n<!-- bench:one -->\nold\n<!-- /bench -->\nbetween\n<!-- bench:two --><!-- /bench -->after\n"

	for blocks, want := range map[string]string{
		"":    readme,
		"one": "before\n<!-- bench:one -->\nnew one\n<!-- /bench -->\nbetween\n<!-- bench:two --><!-- /bench -->after\n",
		"one two three": "before\n<!-- bench:one -->\nnew one\n<!-- /bench -->\nbetween\n" +
			"<!-- bench:two -->\nnew two\n<!-- /bench -->after\n",
	} {
		measured := make(map[string]string)
		for name := range strings.FieldsSeq(blocks) {
			measured[name] = "new " + name + "\n"
		}
		got, err := replaceBlocks(readme, measured)
		require.NoError(t, err)
		require.Equal(t, want, got)
		again, err := replaceBlocks(got, measured)
		require.NoError(t, err)
		require.Equal(t, got, again)
	}

	for _, broken := range []string{
		"<!-- bench:one",
		"<!-- bench:one --> never ends",
		"<!-- bench:one --> <!-- bench:two --> <!-- /bench -->",
		"<!-- bench:one\n --> <!-- /bench -->",
	} {
		_, err := replaceBlocks(broken, nil)
		require.Error(t, err, broken)
	}
}

func TestResultsAreWritten(t *testing.T) {
	dir := t.TempDir()
	readme := filepath.Join(dir, "README.md")
	require.NoError(t, os.WriteFile(readme, []byte("Hello\n<!-- bench:t -->\n<!-- /bench -->\n"), 0o666))

	r := newResults(origin{revision: "v1", rounds: 3})
	one := table{name: "t", title: "T", head: []string{"", "n"}, notes: []string{"A note."}}
	one.row("sendq", "1")
	bars := chart{file: "bars.svg", at: []string{"1", "64"}, series: []series{{"a", []float64{1, 2}}, {"b", []float64{2, median(nil)}}}}
	lines := bars
	lines.file, lines.lines = "lines.svg", true
	onLog := lines
	onLog.file, onLog.log = "log.svg", true
	var printed strings.Builder
	r.add("section", findings{tables: []table{one}, charts: []chart{bars, lines, onLog}}, &printed)
	require.NoError(t, r.write(filepath.Join(dir, "out"), readme))

	text, err := os.ReadFile(readme)
	require.NoError(t, err)
	require.Contains(t, string(text), "| sendq | 1 |\n")
	require.Contains(t, string(text), "medians of 3 rounds")
	require.NotContains(t, string(text), "A note.")
	require.Contains(t, printed.String(), "| sendq | 1 |\n")
	text, err = os.ReadFile(filepath.Join(dir, "out", "RESULTS.md"))
	require.NoError(t, err)
	require.Contains(t, string(text), "| sendq | 1 |\n")
	require.Contains(t, string(text), "A note.\n")
	require.Contains(t, string(text), "![](bars.svg)")
	for _, file := range []string{"bars.svg", "lines.svg", "log.svg"} {
		svg, err := os.ReadFile(filepath.Join(dir, "out", file))
		require.NoError(t, err)
		require.Contains(t, string(svg), "<svg")
		require.NotContains(t, string(svg), "NaN")
	}
}

func TestChooseSections(t *testing.T) {
	all, err := chooseSections("")
	require.NoError(t, err)
	require.Len(t, all, len(sections))
	some, err := chooseSections("idle, writer")
	require.NoError(t, err)
	require.Equal(t, []string{"idle", "writer"}, []string{some[0].name, some[1].name})
	_, err = chooseSections("idle,wirter")
	require.ErrorContains(t, err, `"wirter"`)
}
