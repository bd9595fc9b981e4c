// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/weir-project/weir/internal/apiserver"
)

// console shows a person how a stand-alone server starts and ends: a line for each stage, the last of which changes in place
// while it goes on. Its methods may be called by any number of goroutines.
type console struct {
	// logs is where the log is, for people.
	logs string
	// inPlace says that the terminal can write a line again. Otherwise only what is over is shown.
	inPlace bool
	now     func() time.Time

	mu sync.Mutex
	w  io.Writer
	// began is when the present stage did, last what its line says. open says that a line has been written that
	// is not ended.
	began time.Time
	stage apiserver.Stage
	last  string
	open  bool
	// started is when the server was, stopping when it was asked to end; zero if it was not.
	started, stopping time.Time
	// waits is what the end waits for, as it was shown last.
	waits string
}

func newConsole(w io.Writer, logs string, inPlace bool) *console {
	return &console{w: w, logs: logs, inPlace: inPlace, now: time.Now, started: time.Now()}
}

// progress is for apiserver.Options.Progress.
func (c *console) progress(p apiserver.Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case p.Stage == apiserver.StageDirectory:
		return
	case p.Stage == apiserver.StageEnd:
		c.ending(p.Watches)
		return
	case !c.stopping.IsZero():
		return
	case p.Stage != c.stage:
		c.stage, c.began = p.Stage, c.now()
	}
	detail := p.Detail
	if p.Total > 0 {
		detail = fmt.Sprintf("%d of %d", p.Done, p.Total)
		if p.Done == p.Total && !p.Over {
			detail += ", waiting for what else is to be ready"
		}
	}
	if p.Over {
		if took := c.now().Sub(c.began); took >= 100*time.Millisecond {
			if detail != "" {
				detail += "  "
			}
			detail += fmt.Sprintf("%.1fs", took.Seconds())
		}
	}
	text, whole := fmt.Sprintf("  %-13s %s", p.Stage, detail), p.Over || p.Stage == apiserver.StagePort
	if text != c.last || whole {
		c.line(text, whole)
	}
	c.last = text
}

// line writes a line over the one that is open. It stays if whole.
func (c *console) line(text string, whole bool) {
	switch {
	case !c.inPlace && whole:
		fmt.Fprintln(c.w, text)
	case !c.inPlace:
	case whole:
		fmt.Fprintf(c.w, "\r\x1b[2K%s\r\n", text)
		c.open = false
	default:
		fmt.Fprintf(c.w, "\r\x1b[2K%s", text)
		c.open = true
	}
}

// ending says what the end waits for.
func (c *console) ending(watches int) {
	if c.stopping.IsZero() {
		c.stopping = c.now()
		if c.inPlace {
			fmt.Fprint(c.w, "\r\x1b[2K") // the terminal's ^C, or a stage's line
		}
		c.open = false
	}
	waits := "for requests that are being answered"
	if watches > 0 {
		waits = fmt.Sprintf("for %d %s to end", watches, plural(watches, "watch", "watches"))
	}
	if waits == c.waits {
		return
	}
	whole := !c.inPlace && c.waits == "" // once, where it cannot be written again
	c.waits = waits
	c.line("Stopping: waiting "+waits+" (Ctrl-C again ends it at once)", whole)
}

// ready says where the server is and what to try.
func (c *console) ready(r apiserver.Ready) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopping.IsZero() {
		return
	}
	fmt.Fprintf(c.w, "\nweir serves %s, ready after %.1fs\n", r.URL, c.now().Sub(c.started).Seconds())
	if r.Kubeconfig != "" {
		fmt.Fprintf(c.w, "Try in another terminal:\n\n  export KUBECONFIG=%s\n  kubectl get ns\n", quoted(r.Kubeconfig))
		fmt.Fprint(c.w, "  weir status\n")
	}
	fmt.Fprintf(c.w, "\nThe log is in %s. Ctrl-C ends the server.\n", c.logs)
}

// close ends the line that is open, and says how long the end took if there was one as it should be.
func (c *console) close(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && !c.stopping.IsZero() {
		c.line(fmt.Sprintf("Stopped after %.1fs.", c.now().Sub(c.stopping).Seconds()), true)
		return
	}
	if c.open {
		fmt.Fprint(c.w, "\r\n")
		c.open = false
	}
}

func plural(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}
