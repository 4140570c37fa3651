package main

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/gif"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A player of the GIF sees every frame, as long as it lasted.
func TestEncode(t *testing.T) {
	white := image.NewRGBA(image.Rect(0, 0, 20, 10))
	draw.Draw(white, white.Bounds(), image.White, image.Point{}, draw.Src)
	spot := func(x, y int, c color.Color) image.Image {
		picture := image.NewRGBA(white.Bounds())
		draw.Draw(picture, picture.Bounds(), white, image.Point{}, draw.Src)
		picture.Set(x, y, c)
		return picture
	}
	red, black := color.RGBA{200, 0, 0, 255}, color.RGBA{0, 0, 0, 255}
	frames := []frame{
		{white, 100 * time.Millisecond},
		{spot(3, 4, red), 200 * time.Millisecond},
		{spot(3, 4, red), 300 * time.Millisecond},
		{spot(19, 9, black), 400 * time.Millisecond},
		{white, 500 * time.Millisecond},
	}
	var file bytes.Buffer
	require.NoError(t, encode(&file, frames))

	g, err := gif.DecodeAll(&file)
	require.NoError(t, err)
	require.Equal(t, []int{10, 50, 40, 50}, g.Delay, "equal frames are one")
	require.Equal(t, 0, g.LoopCount, "without an end")
	require.Equal(t, image.Rect(3, 4, 4, 5), g.Image[1].Bounds(), "only the change")
	screen := image.NewRGBA(white.Bounds())
	for i, want := range []image.Image{white, frames[1], frames[3], white} {
		draw.Draw(screen, g.Image[i].Bounds(), g.Image[i], g.Image[i].Bounds().Min, draw.Over)
		for y := range 10 {
			for x := range 20 {
				require.Equal(t, color.RGBAModel.Convert(want.At(x, y)), screen.At(x, y), "frame %d at %d, %d", i, x, y)
			}
		}
	}
}
