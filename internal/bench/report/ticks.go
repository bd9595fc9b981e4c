// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"strconv"

	"gonum.org/v1/plot"
)

// mostTicks is how many a scale has at most, beside that of 0.
const mostTicks = 7

// byteTicks are round numbers of MB or GB.
type byteTicks struct{}

// Ticks implements plot.Ticker.
func (byteTicks) Ticks(_, to float64) []plot.Tick {
	step := math.Pow(10, math.Floor(math.Log10(max(1, to)/mostTicks)))
	for _, times := range []float64{1, 2, 5, 10} {
		if to/(step*times) <= mostTicks {
			step *= times
			break
		}
	}
	var ticks []plot.Tick
	for i := 0; float64(i)*step <= to; i++ {
		ticks = append(ticks, plot.Tick{Value: float64(i) * step, Label: inUnit(float64(i)*step, to)})
	}
	return ticks
}

// inUnit is a number of bytes in GB on a scale that reaches 2 GB, and else in MB.
func inUnit(n, scale float64) string {
	switch {
	case n == 0:
		return "0"
	case scale >= 2e9:
		return strconv.FormatFloat(n/1e9, 'g', 4, 64) + " GB"
	default:
		return strconv.FormatFloat(n/1e6, 'g', 6, 64) + " MB"
	}
}

// amount is a number of bytes for people, with two or three digits.
func amount(n float64) string {
	switch {
	case n >= 9.95e9:
		return strconv.FormatFloat(n/1e9, 'f', 0, 64) + " GB"
	case n >= 1e9:
		return strconv.FormatFloat(n/1e9, 'f', 1, 64) + " GB"
	default:
		return strconv.FormatFloat(n/1e6, 'f', 0, 64) + " MB"
	}
}

// timeSteps are those that a clock's reader is used to, in seconds.
var timeSteps = []float64{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400}

// timeTicks are round numbers of seconds, minutes or hours.
type timeTicks struct{}

// Ticks implements plot.Ticker.
func (timeTicks) Ticks(_, to float64) []plot.Tick {
	step := math.Ceil(to/86400/mostTicks) * 86400
	for _, s := range timeSteps {
		if to/s <= mostTicks {
			step = s
			break
		}
	}
	unit, name := 1.0, " s"
	switch {
	case step >= 3600:
		unit, name = 3600, " h"
	case step >= 60:
		unit, name = 60, " min"
	}
	var ticks []plot.Tick
	for i := 0; float64(i)*step <= to; i++ {
		label := "0"
		if i > 0 {
			label = strconv.FormatFloat(float64(i)*step/unit, 'g', 6, 64) + name
		}
		ticks = append(ticks, plot.Tick{Value: float64(i) * step, Label: label})
	}
	return ticks
}
