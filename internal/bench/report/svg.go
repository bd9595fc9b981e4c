// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"html"
	"image/color"
	"regexp"
	"strconv"
	"strings"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// textStyle is of the one typeface that is used, in points.
func textStyle(size vg.Length, bold bool, colour color.Color) draw.TextStyle {
	return draw.TextStyle{Color: colour, Font: typeface(size, bold), Handler: plot.DefaultTextHandler}
}

func typeface(size vg.Length, bold bool) font.Font {
	f := font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
	if bold {
		f.Weight = xfont.WeightBold
	}
	return f
}

// cutTo is as much of a text as fits.
func cutTo(style draw.TextStyle, text string, width vg.Length) string {
	runes := []rune(text)
	for n := len(runes); n > 0; n-- {
		cut := string(runes[:n])
		if n < len(runes) {
			cut += "…"
		}
		if style.Width(cut) <= width {
			return cut
		}
	}
	return ""
}

var (
	textElement = regexp.MustCompile(`(?s)<text ([^>]*?)style="font-family:Liberation Sans;([^"]*)">([^<]*)</text>`)
	fontSize    = regexp.MustCompile(`font-size:([\d.]+)px`)
)

// holdWidths says in an SVG how wide each text is, and what else there is for its font: whoever looks at it may have
// other fonts, and what was placed with this one would meet other words, or leave the picture.
func holdWidths(svg []byte) []byte {
	return textElement.ReplaceAllFunc(svg, func(element []byte) []byte {
		m := textElement.FindSubmatch(element)
		size := fontSize.FindSubmatch(m[2])
		if size == nil {
			return element
		}
		points, err := strconv.ParseFloat(string(size[1]), 64)
		if err != nil {
			return element
		}
		style := textStyle(vg.Length(points), strings.Contains(string(m[2]), "font-weight:bold"), color.Black)
		return fmt.Appendf(nil, `<text %stextLength="%.2f" lengthAdjust="spacingAndGlyphs" style="font-family:Liberation Sans,Arimo,Arial,Helvetica,sans-serif;%s">%s</text>`,
			m[1], style.Width(html.UnescapeString(string(m[3]))).Points(), m[2], m[3])
	})
}
