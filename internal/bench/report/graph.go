// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"image/color"
	"path/filepath"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// lineLooks tell targets apart by dash and by mark as well as by colour.
var lineLooks = []struct {
	colour color.Color
	dashes []vg.Length
	mark   draw.GlyphDrawer
}{
	{color.RGBA{R: 0xb5, G: 0x40, B: 0x17, A: 0xff}, nil, draw.CircleGlyph{}},
	{color.RGBA{R: 0x1b, G: 0x5e, B: 0xa8, A: 0xff}, []vg.Length{vg.Points(7), vg.Points(3)}, draw.BoxGlyph{}},
	{color.RGBA{R: 0x2a, G: 0x7d, B: 0x3f, A: 0xff}, []vg.Length{vg.Points(2), vg.Points(3)}, draw.TriangleGlyph{}},
	{color.RGBA{R: 0x6b, G: 0x3f, B: 0x92, A: 0xff}, []vg.Length{vg.Points(9), vg.Points(3), vg.Points(2), vg.Points(3)}, draw.PyramidGlyph{}},
}

// DrawGraphs writes, for each scenario of the first round, the server's resident memory over time as dir/LABEL.svg and
// .png, one line per target with the phases marked on it. It returns the paths without their suffixes.
func (r *Results) DrawGraphs(dir string) ([]string, error) {
	var labels []string
	runs := map[string][]*TargetRun{}
	for i := range r.Runs {
		run := &r.Runs[i]
		if run.Round > 0 || len(run.Samples) < 2 {
			continue
		}
		if runs[run.Label] == nil {
			labels = append(labels, run.Label)
		}
		runs[run.Label] = append(runs[run.Label], run)
	}
	var paths []string
	for _, label := range labels {
		p, err := memoryGraph(label, runs[label])
		if err != nil {
			return paths, fmt.Errorf("graph of %s: %w", label, err)
		}
		path := filepath.Join(dir, label)
		for _, suffix := range []string{".svg", ".png"} {
			if err := p.Save(26*vg.Centimeter, 14*vg.Centimeter, path+suffix); err != nil {
				return paths, fmt.Errorf("save the graph: %w", err)
			}
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func memoryGraph(title string, runs []*TargetRun) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = title + ": resident memory of the server"
	p.X.Label.Text = "seconds since the server was started, or the scenario was; marks are the beginning and the end of a phase"
	p.Y.Label.Text = "MB"
	p.Y.Min = 0
	p.X.Tick.Marker, p.Y.Tick.Marker = shortTicks{}, shortTicks{}
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.ThumbnailWidth = vg.Centimeter * 1.6
	p.Add(plotter.NewGrid())
	for i, run := range runs {
		look := lineLooks[i%len(lineLooks)]
		points := make(plotter.XYs, len(run.Samples))
		for j, s := range run.Samples {
			points[j] = plotter.XY{X: s.Seconds, Y: float64(s.RSS) / 1e6}
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return nil, err
		}
		line.Width, line.Color, line.Dashes = vg.Points(1.6), look.colour, look.dashes
		p.Add(line)
		if err := markPhases(p, run, look.colour, look.mark, i%2 == 1); err != nil {
			return nil, err
		}
		name := run.Target
		if run.Failure != "" {
			name += " (" + shortFailure(run.Target, run.Failure) + ")"
			if err := markEnd(p, points[len(points)-1], look.colour); err != nil {
				return nil, err
			}
		}
		p.Legend.Add(name, line, thumbnail{draw.GlyphStyle{Color: look.colour, Radius: vg.Points(3), Shape: look.mark}})
	}
	// Room for the legend and for labels above the highest point, and for a mark at the end.
	p.Y.Max *= 1.18
	p.X.Max *= 1.03
	p.Title.Padding = vg.Points(6)
	return p, nil
}

// markPhases puts a mark where each phase begins and ends, and its name above or below the beginning: of two lines close
// to each other, the names then do not meet.
func markPhases(p *plot.Plot, run *TargetRun, colour color.Color, mark draw.GlyphDrawer, below bool) error {
	var marks, at plotter.XYs
	var names []string
	for _, phase := range run.Phases {
		began := plotter.XY{X: phase.Began, Y: float64(phase.RSSBefore) / 1e6}
		ended := plotter.XY{X: phase.Began + phase.Wall, Y: float64(phase.RSSAfter) / 1e6}
		marks = append(marks, began)
		if len(phase.Errors) == 0 {
			marks = append(marks, ended)
		}
		at = append(at, began)
		names = append(names, phaseLabel(phase.Name))
	}
	if len(marks) == 0 {
		return nil
	}
	scatter, err := plotter.NewScatter(marks)
	if err != nil {
		return err
	}
	scatter.GlyphStyle = draw.GlyphStyle{Color: colour, Radius: vg.Points(3), Shape: mark}
	labels, err := plotter.NewLabels(plotter.XYLabels{XYs: at, Labels: names})
	if err != nil {
		return err
	}
	for i := range labels.TextStyle {
		labels.TextStyle[i].Color = colour
	}
	labels.Offset = vg.Point{X: vg.Points(-3), Y: vg.Points(7)}
	if below {
		labels.Offset.Y = vg.Points(-16)
	}
	p.Add(scatter, labels)
	return nil
}

// phaseLabel is the end of a phase's name, which tells it apart from the others of its scenario: "x16", "x16 again 1".
func phaseLabel(name string) string {
	before, again, repeated := strings.Cut(name, " again ")
	label := before[strings.LastIndexByte(before, ' ')+1:]
	if repeated {
		label += " again " + again
	}
	return label
}

// shortTicks are the usual ticks with labels no longer than they need be.
type shortTicks struct{ plot.DefaultTicks }

func (t shortTicks) Ticks(from, to float64) []plot.Tick {
	ticks := t.DefaultTicks.Ticks(from, to)
	for i := range ticks {
		if !ticks[i].IsMinor() {
			ticks[i].Label = strconv.FormatFloat(ticks[i].Value, 'g', 6, 64)
		}
	}
	return ticks
}

// thumbnail draws a target's mark on its line in the legend.
type thumbnail struct{ style draw.GlyphStyle }

func (t thumbnail) Thumbnail(c *draw.Canvas) {
	c.DrawGlyph(t.style, vg.Point{X: c.Center().X, Y: c.Center().Y})
}

// shortFailure is what the legend says of a run that is not complete.
func shortFailure(target, failure string) string {
	failure, _, _ = strings.Cut(failure, "; its log")
	failure = strings.TrimPrefix(failure, "target "+target+" ")
	if runes := []rune(failure); len(runes) > 70 {
		failure = string(runes[:70]) + "…"
	}
	return failure
}

// markEnd crosses out the last sample of a run that is not complete.
func markEnd(p *plot.Plot, last plotter.XY, colour color.Color) error {
	cross, err := plotter.NewScatter(plotter.XYs{last})
	if err != nil {
		return err
	}
	cross.GlyphStyle = draw.GlyphStyle{Color: colour, Radius: vg.Points(6), Shape: draw.CrossGlyph{}}
	p.Add(cross)
	return nil
}
