// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// limiter makes control groups that limit memory, one for each start of a server. It is safe for concurrent use.
type limiter struct {
	layout groupLayout
	parent string // directory to make groups in
	prefix string // of their names
	groups atomic.Int64
}

// groupLayout is how one version of control groups is spelt.
type groupLayout struct {
	mount     string   // of the hierarchy that limits memory
	own       string   // directory of the group that this process is in, below mount
	limitFile string   // memory's limit
	swapFiles []string // what keeps the group from swapping, as file and value; files that may be missing
	killsFile string   // has a line "oom_kill N"
	procsFile string
}

// newLimiter finds a place where control groups can be made. It fails where there is none to be had; the error then begins
// with "needs": what needs it stands before.
func newLimiter(prefix string) (*limiter, error) {
	layouts, err := groupLayouts()
	if err != nil {
		return nil, err
	}
	var tried []string
	for _, layout := range layouts {
		// From the outermost group inwards: what others limit should not be mixed with what the user asked for. Where that
		// is not allowed, a group that was delegated to this user is.
		for _, parent := range ancestors(layout.mount, layout.own) {
			l := &limiter{layout: layout, parent: parent, prefix: prefix}
			trial, err := l.group("trial", 1<<30)
			if err == nil {
				trial.remove()
				return l, nil
			}
			tried = append(tried, err.Error())
		}
	}
	if len(tried) == 0 {
		tried = []string{"no hierarchy with the memory controller is mounted"}
	}
	return nil, fmt.Errorf("needs a control group, and none can be made here (%s): run as root, or with a delegated one, as in systemd-run --user --scope -p Delegate=yes", strings.Join(tried, "; "))
}

// groupLayouts reads where the hierarchies are mounted that may limit memory.
func groupLayouts() ([]groupLayout, error) {
	own, err := ownGroups()
	if err != nil {
		return nil, err
	}
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("needs a control group: find where there are any: %w", err)
	}
	defer mounts.Close()
	var layouts []groupLayout
	lines := bufio.NewScanner(mounts)
	for lines.Scan() {
		// "36 35 98:0 /root /mount options optional... - type source superoptions"
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		root, mount := fields[3], fields[4]
		below := func(group string) string { // the group's directory, as far as this mount shows it
			rest, inside := strings.CutPrefix(group, strings.TrimSuffix(root, "/"))
			if !inside || strings.Contains(rest, "..") {
				return mount
			}
			return filepath.Join(mount, rest)
		}
		switch {
		case kind[0] == "cgroup" && slices.Contains(strings.Split(kind[2], ","), "memory"):
			layouts = append(layouts, groupLayout{
				mount: mount, own: below(own["memory"]), limitFile: "memory.limit_in_bytes", killsFile: "memory.oom_control", procsFile: "cgroup.procs",
				swapFiles: []string{"memory.swappiness", "0"},
			})
		case kind[0] == "cgroup2":
			layouts = append(layouts, groupLayout{
				mount: mount, own: below(own[""]), limitFile: "memory.max", killsFile: "memory.events", procsFile: "cgroup.procs",
				swapFiles: []string{"memory.swap.max", "0"},
			})
		}
	}
	return layouts, lines.Err()
}

// ownGroups are the groups that this process is in, by controller; "" is version 2's.
func ownGroups() (map[string]string, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("needs a control group: find where there are any: %w", err)
	}
	own := map[string]string{}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // "4:memory:/path"
		if len(parts) != 3 {
			continue
		}
		for _, controller := range strings.Split(parts[1], ",") {
			own[controller] = parts[2]
		}
	}
	return own, nil
}

// ancestors are mount, own, and all that is between, from the outermost.
func ancestors(mount, own string) []string {
	var list []string
	for dir := own; ; dir = filepath.Dir(dir) {
		list = append(list, dir)
		if dir == mount || len(dir) <= len(mount) {
			break
		}
	}
	slices.Reverse(list)
	return list
}

// memoryGroup is a control group with a memory limit.
type memoryGroup struct {
	layout groupLayout
	dir    string
	limit  int64 // bytes
}

// group makes a group. Who asked for it removes it.
func (l *limiter) group(name string, limit int64) (*memoryGroup, error) {
	g := &memoryGroup{layout: l.layout, limit: limit, dir: filepath.Join(l.parent, fmt.Sprintf("%s-%d-%d-%s", l.prefix, os.Getpid(), l.groups.Add(1), fileName(name)))}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(g.dir, l.layout.limitFile), strconv.FormatInt(limit, 10)); err != nil {
		g.remove()
		return nil, err
	}
	if swap := l.layout.swapFiles; len(swap) == 2 {
		// Without swap there is no such file, and nothing to keep from it.
		if err := writeFile(filepath.Join(g.dir, swap[0]), swap[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			g.remove()
			return nil, err
		}
	}
	return g, nil
}

// limitStep is how much more a group is allowed at a time that cannot have a lower limit.
const limitStep = 1 << 20

// setLimit changes the limit. Version 1 refuses one that is below what the group uses and cannot give back, where version 2
// kills; the group then gets as little more as it takes, and its next growth kills.
func (g *memoryGroup) setLimit(limit int64) error {
	path := filepath.Join(g.dir, g.layout.limitFile)
	err := writeFile(path, strconv.FormatInt(limit, 10))
	for errors.Is(err, syscall.EBUSY) && limit < g.limit {
		limit += limitStep
		err = writeFile(path, strconv.FormatInt(limit, 10))
	}
	if err != nil {
		return fmt.Errorf("limit a control group to %d bytes: %w", limit, err)
	}
	return nil
}

// writeFile writes to a file that is there: control groups' files cannot be created.
func writeFile(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}

// enter makes a command that runs cmd in the group: this same program, which enters and then becomes cmd, with env added
// to this process's environment.
func (g *memoryGroup) enter(self Self, cmd *exec.Cmd, env []string) *exec.Cmd {
	args := []string{limitedSubcommand, "--procs", filepath.Join(g.dir, g.layout.procsFile)}
	for _, e := range env {
		args = append(args, "--env", e)
	}
	args = append(append(args, "--", cmd.Path), cmd.Args...)
	entering := self.Command(args...)
	entering.Dir = cmd.Dir
	return entering
}

// killed reports whether the kernel has killed a process of the group for want of memory.
func (g *memoryGroup) killed() bool {
	data, err := os.ReadFile(filepath.Join(g.dir, g.layout.killsFile))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok && strings.TrimSpace(n) != "0" {
			return true
		}
	}
	return false
}

// remove removes the group, once nothing runs in it. It may be called again.
func (g *memoryGroup) remove() {
	// The kernel takes a moment to notice that a process has ended.
	for range 50 {
		if err := syscall.Rmdir(g.dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// newLimitedCommand is the hidden subcommand that enters a group and becomes another program: version 1 of control groups
// has no other way to start a process in one.
func newLimitedCommand() *cobra.Command {
	var procs string
	var env []string
	cmd := &cobra.Command{
		Use:    limitedSubcommand + " --procs FILE [--env NAME=value]... -- PATH ARGV...",
		Hidden: true,
		Args:   cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := writeFile(procs, strconv.Itoa(os.Getpid())); err != nil {
				return fmt.Errorf("enter the control group: %w", err)
			}
			for _, e := range env {
				name, value, _ := strings.Cut(e, "=")
				if err := os.Setenv(name, value); err != nil {
					return fmt.Errorf("set %s: %w", e, err)
				}
			}
			return fmt.Errorf("start %s: %w", args[0], syscall.Exec(args[0], args[1:], os.Environ()))
		},
	}
	cmd.Flags().StringVar(&procs, "procs", "", "file that lists the group's processes")
	cmd.Flags().StringArrayVar(&env, "env", nil, "variable to add to the environment, as NAME=value")
	return cmd
}
