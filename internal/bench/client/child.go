// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-project/weir/internal/bench/view"
	"github.com/weir-project/weir/internal/rig"
)

// The hidden subcommands that a program is started again as.
const (
	readersSubcommand   = "internal-readers"
	informersSubcommand = "internal-informers"
)

// Commands returns the hidden subcommands that a program must have that starts clients.
func Commands() []*cobra.Command { return []*cobra.Command{newReadersCommand(), newInformersCommand()} }

// Child is a process full of clients. It is spoken to in lines of JSON: requests on its standard input, reports on its
// standard output. The end of its input tells it to finish, so it also ends when this process is killed. Its methods are for
// one caller at a time.
type Child struct {
	process *rig.Process
	in      io.WriteCloser
	reports chan Report // closed when the child's output ends
	badEnd  error       // why it ended, if not with the child; valid once reports is closed
}

// Parent is what is needed to start children.
type Parent struct {
	Self rig.Self
	// Log is the path of the child's log.
	Log string
	// Progress, which may be nil, gets what the child tells unasked between Go and its last report. It is called from one
	// goroutine.
	Progress func(view.Counts)
}

// StartReaders starts a child of readers with a job and waits until it is ready for Go.
func (p Parent) StartReaders(ctx context.Context, job Job) (*Child, error) {
	return p.start(ctx, readersSubcommand, nil, job)
}

// StartInformers starts a child of informers with a job and waits until it is ready for Go.
func (p Parent) StartInformers(ctx context.Context, job InformerJob) (*Child, error) {
	return p.start(ctx, informersSubcommand, []string{fmt.Sprintf("%s=%t", watchListClientEnv, job.WatchList)}, job)
}

// start starts a child of a hidden subcommand, with env added to its environment.
func (p Parent) start(ctx context.Context, subcommand string, env []string, job any) (*Child, error) {
	// Not StdoutPipe: Wait closes that one as soon as the child ends, with the last report perhaps still unread.
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	// A child gives fewer reports than the channel holds, so listening never waits for somebody who has stopped hearing.
	c := &Child{reports: make(chan Report, 8)}
	c.process, err = rig.Start("client child", p.Log, func() (*exec.Cmd, error) {
		cmd := p.Self.Command(subcommand)
		cmd.Env = append(cmd.Env, env...)
		cmd.Stdout = outW
		var err error
		c.in, err = cmd.StdinPipe()
		return cmd, err
	})
	_ = outW.Close()
	if err != nil {
		_ = outR.Close()
		return nil, err
	}
	go c.listen(outR, p.Progress)
	if err = c.say(job); err == nil {
		_, err = c.Hear(ctx, StageReady)
	}
	if err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// listen takes the child's output apart until it ends, which it does with the child.
func (c *Child) listen(out io.ReadCloser, progress func(view.Counts)) {
	defer close(c.reports)
	defer out.Close()
	lines := json.NewDecoder(bufio.NewReader(out))
	for {
		var r Report
		if err := lines.Decode(&r); err != nil {
			if !errors.Is(err, io.EOF) {
				c.badEnd = err
			}
			return
		}
		if r.Stage == StageProgress {
			if progress != nil {
				progress(r.Progress)
			}
			continue
		}
		select {
		case c.reports <- r:
		default:
			c.badEnd = errors.New("it says more than it was asked")
			return
		}
	}
}

// Go has the clients begin.
func (c *Child) Go() error { return c.say("go") }

// Finish tells the clients to end. The child then gives its last report.
func (c *Child) Finish() { _ = c.in.Close() }

// say sends one line.
func (c *Child) say(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		return errors.Join(fmt.Errorf("speak to %s: %w", c.process.Name(), err), c.died())
	}
	return nil
}

// Hear waits for a report of one stage. A report of StageDone with failed streams is an error, whichever was asked for. When
// ctx ends first the child is stopped: nobody would hear its report.
func (c *Child) Hear(ctx context.Context, want Stage) (Report, error) {
	select {
	case r, ok := <-c.reports:
		if !ok {
			return Report{}, c.silent()
		}
		if r.Stage == StageDone && r.Failed > 0 {
			return r, fmt.Errorf("%d streams failed: %s", r.Failed, strings.Join(r.Errors, "; "))
		}
		if r.Stage != want {
			return r, fmt.Errorf("client child is %q, want %q", r.Stage, want)
		}
		return r, nil
	case <-ctx.Done():
		c.stop()
		return Report{}, context.Cause(ctx)
	}
}

// silent is why no report came.
func (c *Child) silent() error {
	if c.badEnd != nil {
		c.stop()
		return fmt.Errorf("answer of %s: %w", c.process.Name(), c.badEnd)
	}
	<-c.process.Done()
	if died := c.died(); died != nil {
		return died
	}
	return fmt.Errorf("answer of %s: %w", c.process.Name(), io.ErrUnexpectedEOF)
}

// died is how the child died, if it did, with the end of its log.
func (c *Child) died() error {
	if err := c.process.Died(); err != nil {
		return fmt.Errorf("%w%s", err, c.process.LogEnd())
	}
	return nil
}

func (c *Child) stop() { _ = c.process.Stop(time.Second) }

// End tells the child to end and waits for it.
func (c *Child) End() {
	c.Finish()
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	select {
	case <-c.process.Done():
	case <-timer.C:
		c.stop()
	}
}
