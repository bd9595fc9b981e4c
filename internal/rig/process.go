// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a program that was started here, and its end. It does not outlive this process (on Linux), and is always
// waited for. It is safe for concurrent use.
type Process struct {
	name string
	log  string
	next func() (launch, error) // makes what the next run starts

	mu sync.Mutex
	// run is the latest one; there is always one. At most one has not ended.
	run *run
}

// launch is a command that has not been started.
type launch struct {
	cmd *exec.Cmd
	// ended, when not nil, is called once when the command has ended, or could not be started. It tells why, where that
	// is known beside the exit status.
	ended func() (why string)
}

// run is one life of a process.
type run struct {
	cmd   *exec.Cmd
	done  chan struct{} // closed when it has ended
	err   error         // how it ended; valid after done
	why   string        // what is known beside; valid after done
	asked chan struct{} // closed when it was asked to end, or killed from here: an end after that is no death

	askOnce sync.Once
}

// Start starts what command makes, which is called again for every Restart. Standard output and error go to the file log,
// which is written anew, where the command does not say otherwise. name is for errors.
func Start(name, log string, command func() (*exec.Cmd, error)) (*Process, error) {
	return start(name, log, func() (launch, error) {
		cmd, err := command()
		return launch{cmd: cmd}, err
	})
}

func start(name, log string, next func() (launch, error)) (*Process, error) {
	p := &Process{name: name, log: log, next: next}
	var err error
	if p.run, err = p.begin(os.O_TRUNC); err != nil {
		return nil, err
	}
	return p, nil
}

// begin starts a run. how opens the log: os.O_TRUNC or os.O_APPEND.
func (p *Process) begin(how int) (*run, error) {
	l, err := p.next()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	if l.ended == nil {
		l.ended = func() string { return "" }
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|how, 0o600)
	if err != nil {
		l.ended()
		return nil, fmt.Errorf("log of %s: %w", p.name, err)
	}
	defer log.Close() // the child has its own
	if l.cmd.Stdout == nil {
		l.cmd.Stdout = log
	}
	if l.cmd.Stderr == nil {
		l.cmd.Stderr = log
	}
	dieWithParent(l.cmd)
	r := &run{cmd: l.cmd, done: make(chan struct{}), asked: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel takes the thread that starts a child for its parent, so that thread stays as long as the child does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := r.cmd.Start()
		started <- err
		if err == nil {
			r.err = r.cmd.Wait()
		}
		r.why = l.ended()
		close(r.done)
	}()
	if err := <-started; err != nil {
		<-r.done
		return nil, fmt.Errorf("start %s (%s): %w", p.name, l.cmd.Path, err)
	}
	return r, nil
}

func (p *Process) latest() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run
}

// Name is the one that it was given.
func (p *Process) Name() string { return p.name }

// Log is the path of the file that has its output, of all its runs.
func (p *Process) Log() string { return p.log }

// Pid is that of the latest run.
func (p *Process) Pid() int { return p.latest().cmd.Process.Pid }

// Done is closed when the latest run has ended. After Restart there is another one.
func (p *Process) Done() <-chan struct{} { return p.latest().done }

// Died returns nil while it runs, or ended because it was stopped or killed from here, and otherwise how it died.
func (p *Process) Died() error {
	r := p.latest()
	select {
	case <-r.done:
	default:
		return nil
	}
	select {
	case <-r.asked:
		return nil
	default:
	}
	return fmt.Errorf("%s died: %s", p.name, r.how())
}

func (r *run) how() string {
	how := "exit status 0"
	if r.err != nil {
		how = r.err.Error()
	}
	if r.why != "" {
		how += ": " + r.why
	}
	return how
}

// Stop asks it to end, by SIGTERM, and kills it when it has not ended after grace. It returns when it is gone. The error
// is how it ended, if not with exit status 0; an end before that is no error of Stop's, see Died.
func (p *Process) Stop(grace time.Duration) error {
	r := p.latest()
	if !r.ask() {
		return nil
	}
	_ = r.cmd.Process.Signal(syscall.SIGTERM) // an error says that it has ended just now
	resume(r.cmd.Process)                     // it may be stopped, and would not see the signal
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
		_ = r.cmd.Process.Kill()
		<-r.done
		return fmt.Errorf("%s had not ended %v after it was asked to, and was killed", p.name, grace)
	}
	if r.err != nil {
		return fmt.Errorf("%s ended with %s", p.name, r.how())
	}
	return nil
}

// Kill ends it by SIGKILL, and returns when it is gone.
func (p *Process) Kill() {
	r := p.latest()
	if r.ask() {
		_ = r.cmd.Process.Kill()
		<-r.done
	}
}

// ask notes that the run is to end. It reports false when it has ended by itself.
func (r *run) ask() bool {
	select {
	case <-r.done: // Died must go on saying so
		return false
	default:
	}
	r.askOnce.Do(func() { close(r.asked) })
	return true
}

// Pause stops it by SIGSTOP: it keeps its connections and answers nothing.
func (p *Process) Pause() error { return pause(p.latest().cmd.Process) }

// Resume lets it go on after Pause.
func (p *Process) Resume() error { return resume(p.latest().cmd.Process) }

// Restart starts it again, when it has ended, with the same command.
func (p *Process) Restart() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.run.done:
	default:
		return fmt.Errorf("start %s again: it has not ended", p.name)
	}
	r, err := p.begin(os.O_APPEND)
	if err != nil {
		return err
	}
	p.run = r
	return nil
}

// LogEnd gives the end of its log, to be put behind an error; empty if there is none.
func (p *Process) LogEnd() string { return LogEnd(p.log) }

// LogEnd gives the end of a log file, to be put behind an error; empty if there is none.
func LogEnd(path string) string {
	data, err := os.ReadFile(path)
	if err != nil || len(data) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(lines) > 5 {
		lines = lines[len(lines)-5:]
	}
	return fmt.Sprintf("; its log ends:\n    %s", strings.Join(lines, "\n    "))
}

// Usage is what a process uses.
type Usage struct {
	RSS int64   // bytes of resident memory
	CPU float64 // seconds of processor time since it was started: user and system, all threads
}

// Usage reads what it uses from /proc, and so needs Linux.
func (p *Process) Usage() (Usage, error) {
	pid := p.Pid()
	rss, rssErr := residentBytes(pid)
	cpu, cpuErr := cpuSeconds(pid)
	return Usage{RSS: rss, CPU: cpu}, errors.Join(rssErr, cpuErr)
}

// waitReady asks until the answer is nil, the process, where there is one, has ended, or limit is over.
func waitReady(ctx context.Context, name string, p *Process, limit, every time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	var done <-chan struct{}
	if p != nil {
		done = p.Done()
	}
	var last error
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-tick.C:
		case <-done:
			if err := p.Died(); err != nil {
				return fmt.Errorf("%w%s", err, p.LogEnd())
			}
			return fmt.Errorf("%s was stopped before it was ready", name)
		case <-ctx.Done():
			if context.Cause(ctx) != context.DeadlineExceeded {
				return context.Cause(ctx)
			}
			logEnd := ""
			if p != nil {
				logEnd = p.LogEnd()
			}
			return fmt.Errorf("%s was not ready after %v: %w%s", name, limit, last, logEnd)
		}
	}
}
