// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package view

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/weir-project/weir/internal/status"
	"github.com/weir-project/weir/internal/status/source"
)

// live shows the status until q is pressed or ctx ends.
func (o *options) live(ctx context.Context, s *source.Source) error {
	report, err := s.Get(ctx)
	if err != nil {
		return err
	}
	m := model{ctx: ctx, server: s, interval: o.interval, tables: tables{report: report, host: s.Host, all: o.all, clients: index(clientOrders, o.sort)}}
	_, err = tea.NewProgram(m, tea.WithContext(ctx)).Run()
	if errors.Is(err, tea.ErrInterrupted) || ctx.Err() != nil {
		return nil
	}
	return err
}

// model is what bubbletea shows. It is a value: each message makes another.
type model struct {
	ctx      context.Context
	server   *source.Source
	interval time.Duration
	tables   tables
	// err is why the last question was not answered; what is shown then is what was known before.
	err error
	// height is that of the terminal, top the first line of the tables that is shown.
	height, top int
	// paused says that nothing is asked.
	paused bool
}

// answer is what a question brought.
type answer struct {
	report *status.Report
	err    error
}

// due says that it is time to ask.
type due struct{}

func (m model) Init() tea.Cmd { return m.wait() }

func (m model) wait() tea.Cmd {
	return tea.Tick(m.interval, func(time.Time) tea.Msg { return due{} })
}

func (m model) ask() tea.Msg {
	report, err := m.server.Get(m.ctx)
	return answer{report, err}
}

func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case due:
		if m.paused {
			return m, m.wait()
		}
		return m, m.ask
	case answer:
		if m.err = msg.err; m.err == nil {
			m.tables.before, m.tables.report = m.tables.report, msg.report
		}
		return m, m.wait()
	case tea.WindowSizeMsg:
		m.height = msg.Height
	case tea.KeyPressMsg:
		return m.key(msg.String())
	}
	return m, nil
}

func (m model) key(key string) (tea.Model, tea.Cmd) {
	switch key {
	case "q", "esc", "ctrl+c":
		return m, tea.Quit
	case "s", "c":
		m.tables.clients = (m.tables.clients + 1) % len(clientOrders)
	case "r":
		m.tables.resources = (m.tables.resources + 1) % len(resourceOrders)
	case "a":
		m.tables.all = !m.tables.all
	case "p", "space":
		m.paused = !m.paused
	case "up", "k":
		m.top--
	case "down", "j":
		m.top++
	case "pgup":
		m.top -= m.room()
	case "pgdown":
		m.top += m.room()
	case "home", "g":
		m.top = 0
	}
	m.top = max(0, min(m.top, len(m.tables.lines())-m.room()))
	return m, nil
}

// room is how many lines of the tables can be shown.
func (m model) room() int { return max(1, m.height-2) }

func (m model) View() tea.View {
	lines := m.tables.lines()
	top := max(0, min(m.top, len(lines)-m.room()))
	shown := slices.Clone(lines[top:min(len(lines), top+m.room())])
	for len(shown) < m.room() {
		shown = append(shown, "")
	}
	state := fmt.Sprintf("%s, every %v", m.tables.report.Time.Local().Format(time.TimeOnly), m.interval)
	switch {
	case m.err != nil:
		state = "as of " + m.tables.report.Time.Local().Format(time.TimeOnly) + "; " + printable(m.err.Error(), width)
	case m.paused:
		state = "as of " + m.tables.report.Time.Local().Format(time.TimeOnly) + "; paused"
	}
	shown = append(shown, cut(state), cut(fmt.Sprintf("q ends  s sorts clients (%s)  r resources (%s)  a all  p pauses  ↑↓ scroll",
		clientOrders[m.tables.clients].name, resourceOrders[m.tables.resources].name)))
	v := tea.NewView(strings.Join(shown, "\n"))
	v.AltScreen = true
	return v
}
