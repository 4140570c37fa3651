package main

import (
	"bytes"
	"compress/flate"
	"fmt"
	"testing"
)

// BenchmarkDeflate measures the size and the time of permessage-deflate for a chat line. The line is
// compressed once for all users, and so without the lines before it.
func BenchmarkDeflate(b *testing.B) {
	lines := map[string]string{
		"short": "from alice in #lobby: see you at lunch, then\n",
		"long":  "from alice in #lobby: " + "the new build is out, and the board behind the door says who tests what. I would like to look at the stalled connections first, since somebody saw two of them last night after the restart, and nobody knows why they did not come back" + "\n",
	}
	for name, line := range lines {
		b.Run(fmt.Sprintf("%s/%d", name, len(line)), func(b *testing.B) {
			var out bytes.Buffer
			w, _ := flate.NewWriter(&out, flate.BestSpeed)
			for b.Loop() {
				out.Reset()
				w.Reset(&out)
				w.Write([]byte(line))
				w.Flush()
			}
			b.ReportMetric(float64(out.Len()-4), "bytes") // the empty block at the end is left out
		})
	}
}

// BenchmarkFrame measures framing, for comparison.
func BenchmarkFrame(b *testing.B) {
	line := []byte("from alice in #lobby: see you at lunch, then\n")
	for b.Loop() {
		frameOf(line)
	}
}
