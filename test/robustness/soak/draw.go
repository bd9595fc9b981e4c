// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"fmt"
	"image/color"
	"io"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

var colours = []color.Color{
	color.RGBA{R: 0x1b, G: 0x5e, B: 0xa8, A: 0xff}, color.RGBA{R: 0xb5, G: 0x40, B: 0x17, A: 0xff},
	color.RGBA{R: 0x2a, G: 0x7d, B: 0x3f, A: 0xff}, color.RGBA{R: 0x6b, G: 0x3f, B: 0x92, A: 0xff},
}

// Draw writes the curves as an SVG of four pictures: memory, the ledger, goroutines, descriptors. Servers differ by colour
// and, within a picture, measures by dashes.
func Draw(w io.Writer, samples []Sample) error {
	const columns, rows = 2, 2
	plots := [rows][columns]*plot.Plot{}
	for i, picture := range []struct {
		title  string
		unit   string
		belong func(name string) bool
	}{
		{"memory", "MB", func(n string) bool { return n == "RSS MB" || n == "live heap MB" }},
		{"ledger, by purpose", "MB", func(n string) bool { return strings.HasPrefix(n, "ledger ") }},
		{"goroutines", "", func(n string) bool { return n == "goroutines" }},
		{"descriptors", "", func(n string) bool { return n == "descriptors" }},
	} {
		p := plot.New()
		p.Title.Text, p.X.Label.Text, p.Y.Label.Text = picture.title, "minutes", picture.unit
		p.Y.Min = 0
		p.Legend.Top = true
		p.Add(plotter.NewGrid())
		nth := 0
		for _, m := range of(samples) {
			if !picture.belong(m.name) {
				continue
			}
			if err := lines(p, samples, m, nth); err != nil {
				return fmt.Errorf("draw %s: %w", m.name, err)
			}
			nth++
		}
		p.Y.Max *= 1.3 // room for the legend
		plots[i/columns][i%columns] = p
	}
	canvas := vgsvg.New(30*vg.Centimeter, 18*vg.Centimeter)
	tiles := draw.Tiles{Rows: rows, Cols: columns, PadX: vg.Centimeter, PadY: vg.Centimeter}
	grid := [][]*plot.Plot{plots[0][:], plots[1][:]}
	for i, row := range plot.Align(grid, tiles, draw.New(canvas)) {
		for j, c := range row {
			grid[i][j].Draw(c)
		}
	}
	_, err := canvas.WriteTo(w)
	return err
}

func lines(p *plot.Plot, samples []Sample, m measure, nth int) error {
	for i, server := range servers(samples) {
		var points plotter.XYs
		for _, s := range samples {
			if v, told := m.of(s); told && s.Server == server {
				points = append(points, plotter.XY{X: s.After.Minutes(), Y: v})
			}
		}
		if len(points) == 0 {
			continue
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return err
		}
		line.Width, line.Color = vg.Points(1.2), colours[i%len(colours)]
		if nth > 0 {
			line.Dashes = []vg.Length{vg.Points(float64(8 / nth)), vg.Points(3)}
		}
		p.Add(line)
		p.Legend.Add(strings.TrimSuffix(strings.TrimPrefix(m.name, "ledger "), " MB")+", "+server, line)
	}
	return nil
}
