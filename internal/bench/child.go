// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

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
	"sync"
	"time"
)

// selfExec says how to start this same program again as one of its hidden subcommands.
type selfExec struct {
	path   string   // the executable
	prefix []string // what stands between the executable and the subcommand, such as "bench"
}

func (s selfExec) command(args ...string) *exec.Cmd {
	return exec.Command(s.path, append(append([]string(nil), s.prefix...), args...)...)
}

// process is a started child and its end. It is safe for concurrent use.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string // path of the file that has its output

	done chan struct{} // closed when the child has ended
	err  error         // how it ended; valid after done

	stopOnce sync.Once
	asked    chan struct{} // closed when stop was called: an end after that is no death
}

// startProcess starts cmd, whose Stdout and Stderr the caller has set, and watches for its end. The child does not
// outlive this process.
func startProcess(name, log string, cmd *exec.Cmd) (*process, error) {
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s (%s): %w", name, cmd.Path, err)
	}
	p := &process{name: name, cmd: cmd, log: log, done: make(chan struct{}), asked: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// died is ended with the end of the child's log.
func (p *process) died() error {
	if err := p.ended(); err != nil {
		return fmt.Errorf("%w%s", err, lastLines(p.log))
	}
	return nil
}

// ended returns nil while the child runs, or ended because it was asked to, and otherwise how it died.
func (p *process) ended() error {
	select {
	case <-p.done:
	default:
		return nil
	}
	select {
	case <-p.asked:
		return nil
	default:
	}
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("%s died: %s", p.name, how)
}

// stop asks the child to end, and kills it when it has not ended after grace. It returns when the child is gone.
func (p *process) stop(grace time.Duration) {
	p.stopOnce.Do(func() {
		select {
		case <-p.done: // it died by itself; died() must go on saying so
			return
		default:
		}
		close(p.asked)
		_ = p.cmd.Process.Signal(os.Interrupt)
	})
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// lastLines gives the end of a log file for an error message.
func lastLines(path string) string {
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

// dialogue is a child that is spoken to in lines of JSON: requests on its standard input, answers on its standard
// output. The end of its input tells the child to finish, so it also ends when this process is killed.
type dialogue struct {
	*process
	in      io.WriteCloser
	answers chan json.RawMessage // closed when the child's output ends
	badEnd  error                // why it ended, if not with the child; valid once answers is closed
}

// startDialogue starts a child whose log goes to a file. Reports of progress that it makes unasked go to progress, which
// may be nil.
func startDialogue(name, log string, cmd *exec.Cmd, progress func(readerReport)) (*dialogue, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// Not StdoutPipe: Wait closes that one as soon as the child ends, with the last answer perhaps still unread.
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	logFile, err := os.Create(log)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", name, err)
	}
	cmd.Stdout, cmd.Stderr = outW, logFile
	p, err := startProcess(name, log, cmd)
	_ = outW.Close()
	_ = logFile.Close()
	if err != nil {
		_ = outR.Close()
		return nil, err
	}
	go func() { <-p.done; in.Close() }()
	// A child gives fewer answers than the channel holds, so listening never waits for somebody who has stopped hearing.
	d := &dialogue{process: p, in: in, answers: make(chan json.RawMessage, 8)}
	go d.listen(outR, progress)
	return d, nil
}

// listen takes the child's output apart until it ends, which it does with the child.
func (d *dialogue) listen(out io.ReadCloser, progress func(readerReport)) {
	defer close(d.answers)
	defer out.Close()
	lines := json.NewDecoder(bufio.NewReader(out))
	for {
		var line json.RawMessage
		if err := lines.Decode(&line); err != nil {
			if !errors.Is(err, io.EOF) {
				d.badEnd = err
			}
			return
		}
		var r readerReport
		if json.Unmarshal(line, &r) == nil && r.Stage == stageProgress {
			if progress != nil {
				progress(r)
			}
			continue
		}
		select {
		case d.answers <- line:
		default:
			d.badEnd = errors.New("it says more than it was asked")
			return
		}
	}
}

// say sends one line.
func (d *dialogue) say(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if _, err := d.in.Write(append(line, '\n')); err != nil {
		return errors.Join(fmt.Errorf("speak to %s: %w", d.name, err), d.died())
	}
	return nil
}

// hear waits for one answer. When ctx ends first the child is stopped: nobody would hear its answer.
func (d *dialogue) hear(ctx context.Context, v any) error {
	select {
	case line, ok := <-d.answers:
		if ok {
			return json.Unmarshal(line, v)
		}
		if d.badEnd != nil {
			d.stop(time.Second)
			return fmt.Errorf("answer of %s: %w", d.name, d.badEnd)
		}
		<-d.done
		if died := d.died(); died != nil {
			return died
		}
		return fmt.Errorf("answer of %s: %w", d.name, io.ErrUnexpectedEOF)
	case <-ctx.Done():
		d.stop(time.Second)
		return context.Cause(ctx)
	}
}
