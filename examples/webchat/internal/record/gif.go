package main

import (
	"cmp"
	"image"
	"image/color"
	"image/gif"
	"io"
	"iter"
	"maps"
	"slices"
	"time"
)

// colours is the size of the palette. More of them make the file larger, and hardly better.
const colours = 64

// transparent is the index of the colour of unchanged pixels.
const transparent = 0

// encode writes frames as an animated GIF without an end. After the first, a frame has only the
// rectangle that changed.
func encode(w io.Writer, frames []frame) error {
	p := newPainter(frames)
	var g gif.GIF
	var shown *image.Paletted // so far
	for _, f := range frames {
		picture := p.paint(f)
		change := picture
		if shown != nil {
			change = difference(shown, picture)
		}
		delay := int((f.lasts + 5*time.Millisecond) / (10 * time.Millisecond))
		if change == nil {
			g.Delay[len(g.Delay)-1] += delay
			continue
		}
		shown = picture
		g.Image = append(g.Image, change)
		g.Delay = append(g.Delay, delay)
	}
	return gif.EncodeAll(w, &g)
}

// A painter paints with the most frequent colours.
type painter struct {
	palette color.Palette
	nearest map[color.RGBA]uint8 // index in palette
}

func newPainter(frames []frame) *painter {
	count := make(map[color.RGBA]int)
	for _, f := range frames {
		for c := range pixels(f) {
			count[c]++
		}
	}
	frequent := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(number(a), number(b)))
	})
	p := &painter{palette: color.Palette{color.RGBA{}}, nearest: make(map[color.RGBA]uint8)}
	for _, c := range frequent[:min(len(frequent), colours-1)] {
		p.palette = append(p.palette, c)
	}
	return p
}

func number(c color.RGBA) int { return int(c.R)<<16 | int(c.G)<<8 | int(c.B) }

// pixels yields the pixels of a picture, row by row.
func pixels(picture image.Image) iter.Seq[color.RGBA] {
	return func(yield func(color.RGBA) bool) {
		b := picture.Bounds()
		for y := b.Min.Y; y < b.Max.Y; y++ {
			for x := b.Min.X; x < b.Max.X; x++ {
				if !yield(color.RGBAModel.Convert(picture.At(x, y)).(color.RGBA)) {
					return
				}
			}
		}
	}
}

// paint returns the picture in the colours of the palette.
func (p *painter) paint(picture image.Image) *image.Paletted {
	painted := image.NewPaletted(picture.Bounds(), p.palette)
	i := 0
	for c := range pixels(picture) {
		index, known := p.nearest[c]
		if !known {
			index = uint8(1 + p.palette[1:].Index(c))
			p.nearest[c] = index
		}
		painted.Pix[i] = index
		i++
	}
	return painted
}

// difference returns the smallest rectangle of picture that has all changes. It is nil if there are
// none.
func difference(old, picture *image.Paletted) *image.Paletted {
	var changed image.Rectangle
	for i := range picture.Pix {
		if old.Pix[i] != picture.Pix[i] {
			at := image.Pt(i%picture.Stride, i/picture.Stride)
			changed = changed.Union(image.Rectangle{at, at.Add(image.Pt(1, 1))})
		}
	}
	if changed.Empty() {
		return nil
	}
	change := image.NewPaletted(changed, picture.Palette)
	for y := changed.Min.Y; y < changed.Max.Y; y++ {
		for x := changed.Min.X; x < changed.Max.X; x++ {
			index := picture.ColorIndexAt(x, y)
			if old.ColorIndexAt(x, y) == index {
				index = transparent
			}
			change.SetColorIndex(x, y, index)
		}
	}
	return change
}
