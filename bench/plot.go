//go:build linux

package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A chart is a plot of grouped bars or of lines.
type chart struct {
	file, title, x, y string
	at                []string // the labels of the x axis
	series            []series
	lines             bool
	log               bool // the y axis, for lines
}

// A series is one colour of a chart.
type series struct {
	name   string
	values []float64 // NaN if not measured
}

const (
	chartWidth, chartHeight = 18 * vg.Centimeter, 10 * vg.Centimeter
	margin                  = 3 * vg.Millimeter
)

// colours is the palette of Okabe and Ito, distinguishable with colour vision deficiency. The
// first one is for sendq.
var colours = []color.RGBA{
	{213, 94, 0, 255}, {0, 114, 178, 255}, {86, 180, 233, 255}, {0, 158, 115, 255},
	{230, 159, 0, 255}, {204, 121, 167, 255}, {240, 228, 66, 255}, {120, 120, 120, 255},
}

func colour(i int) color.Color { return colours[i%len(colours)] }

// drawTo writes the chart to dir as SVG.
func (c *chart) drawTo(dir string) error {
	p, err := c.plot()
	if err != nil {
		return fmt.Errorf("plot %s: %w", c.file, err)
	}
	svg := vgsvg.New(chartWidth, chartHeight)
	page := draw.New(svg)
	page.SetColor(color.White)
	page.Fill(page.Rectangle.Path())
	p.Draw(draw.Crop(page, margin, -margin, margin, -margin))
	var drawn bytes.Buffer
	if _, err := svg.WriteTo(&drawn); err != nil {
		return fmt.Errorf("plot %s: %w", c.file, err)
	}
	// Add fallbacks, because viewers may lack the font.
	const font = "font-family:Liberation Sans"
	text := bytes.ReplaceAll(drawn.Bytes(), []byte(font), []byte(font+",Arial,Helvetica,sans-serif"))
	return os.WriteFile(filepath.Join(dir, c.file), text, 0o666)
}

func (c *chart) plot() (*plot.Plot, error) {
	plot.DefaultFont.Variant = "Sans"
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = c.title, c.x, c.y
	p.Y.Min = 0
	p.Legend.Top, p.Legend.Left, p.Legend.Padding = true, true, vg.Millimeter
	p.NominalX(c.at...)
	add := c.addBars
	if c.lines {
		add = c.addLines
	}
	if err := add(p); err != nil {
		return nil, err
	}
	p.X.Min, p.X.Max = -0.5, float64(len(c.at))-0.5
	if c.log {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		p.Y.Min = math.Pow(10, math.Floor(math.Log10(c.lowest())))
		p.Y.Max = math.Pow(10, math.Ceil(math.Log10(p.Y.Max)))
		return p, nil
	}
	p.Y.Max *= 1 + 0.1*float64(len(c.series)) // room for the legend at the top
	return p, nil
}

func (c *chart) addBars(p *plot.Plot) error {
	const group = 0.7 // share of the width per x taken by its bars
	width := group * chartWidth / vg.Length(len(c.at)*len(c.series))
	for i, s := range c.series {
		values := make(plotter.Values, len(s.values))
		for j, v := range s.values {
			values[j] = orZero(v)
		}
		bars, err := plotter.NewBarChart(values, width)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		bars.Color = colour(i)
		bars.LineStyle.Width = 0
		bars.Offset = width * (vg.Length(i) - vg.Length(len(c.series)-1)/2)
		p.Add(bars)
		p.Legend.Add(s.name, bars)
	}
	return nil
}

func (c *chart) addLines(p *plot.Plot) error {
	for i, s := range c.series {
		var points plotter.XYs
		for j, v := range s.values {
			if !math.IsNaN(v) {
				points = append(points, plotter.XY{X: float64(j), Y: v})
			}
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		line.Color, dots.Color, dots.Shape = colour(i), colour(i), plotutil.Shape(i)
		line.Width, dots.Radius = 1.5, 4
		p.Add(line, dots)
		p.Legend.Add(s.name, line, dots)
	}
	return nil
}

// lowest returns the lowest measured value.
func (c *chart) lowest() float64 {
	lowest := math.Inf(1)
	for _, s := range c.series {
		for _, v := range s.values {
			if v < lowest { // not if v is NaN
				lowest = v
			}
		}
	}
	return lowest
}

// orZero returns v, or 0 if v is NaN.
func orZero(v float64) float64 {
	if v != v {
		return 0
	}
	return v
}
