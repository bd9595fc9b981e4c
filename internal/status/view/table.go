// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/charmbracelet/x/ansi"

	"github.com/weir-project/weir/internal/status"
)

const (
	// width is what tables fit into, in columns of the terminal.
	width = 100
	// fewClients is how many clients are shown without --all.
	fewClients = 20
)

// order is a way to sort T.
type order[T any] struct {
	name string
	less func(a, b T) int
}

func names[T any](orders []order[T]) []string {
	var all []string
	for _, o := range orders {
		all = append(all, o.name)
	}
	return all
}

func index[T any](orders []order[T], name string) int {
	return max(0, slices.IndexFunc(orders, func(o order[T]) bool { return o.name == name }))
}

// The orders, each largest first.
var (
	clientOrders = []order[status.Client]{
		{"bytes", func(a, b status.Client) int { return cmp.Compare(b.Bytes, a.Bytes) }},
		{"lists", func(a, b status.Client) int { return cmp.Compare(b.Lists, a.Lists) }},
		{"decoded", func(a, b status.Client) int { return cmp.Compare(b.ListsDecoded, a.ListsDecoded) }},
		{"watches", func(a, b status.Client) int { return cmp.Compare(b.Watching, a.Watching) }},
		{"seats", func(a, b status.Client) int { return cmp.Compare(b.Seats, a.Seats) }},
	}
	resourceOrders = []order[status.Resource]{
		{"bytes", func(a, b status.Resource) int { return cmp.Compare(b.Bytes, a.Bytes) }},
		{"objects", func(a, b status.Resource) int { return cmp.Compare(b.Objects, a.Objects) }},
		{"watches", func(a, b status.Resource) int { return cmp.Compare(b.Watches, a.Watches) }},
		{"history", func(a, b status.Resource) int { return cmp.Compare(b.History.Events, a.History.Events) }},
	}
)

// tables shows a report in lines of at most width columns.
type tables struct {
	report *status.Report
	// before is an earlier report, for rates; nil if there is none.
	before *status.Report
	host   string
	all    bool
	// clients and resources are in clientOrders and resourceOrders.
	clients, resources int
}

func (t *tables) lines() []string {
	lines := t.head()
	lines = append(lines, "")
	lines = append(lines, t.resourceTable()...)
	if len(t.report.Readers) > 0 {
		lines = append(lines, "", "SLOWEST READERS (watches with events that they have yet to read)")
		lines = append(lines, t.readerTable()...)
	}
	lines = append(lines, "", "WHO ASKS FOR WHAT (by "+clientOrders[t.clients].name+", since the start)")
	lines = append(lines, t.clientTable()...)
	for i, line := range lines {
		lines[i] = strings.TrimRight(cut(line), " ")
	}
	return lines
}

// cut returns what fits into the width.
func cut(line string) string { return ansi.Truncate(line, width, "…") }

func (t *tables) head() []string {
	r := t.report
	up := r.Time.Sub(r.Started).Round(time.Second)
	lines := []string{
		fmt.Sprintf("weir %s (Kubernetes %s) at %s", printable(r.Build.Version, 40), printable(r.Kubernetes, 20), printable(t.host, 60)),
		fmt.Sprintf("up %v, %d watches open, etcd at revision %d", up, r.Watching, r.EtcdRevision),
	}
	if r.EtcdError != "" {
		lines[1] = fmt.Sprintf("up %v, %d watches open, etcd: %s", up, r.Watching, printable(r.EtcdError, width))
	}
	m := r.Memory
	limit := "none"
	if m.Limit > 0 {
		limit = size(m.Limit)
	}
	var purposes []string
	for _, p := range m.Purposes {
		purposes = append(purposes, printable(p.Name, 20)+" "+size(p.Bytes))
	}
	lines = append(lines, "")
	lines = append(lines, wrap("MEMORY  ", purposes)...)
	return append(lines, fmt.Sprintf("        alive in the heap %s, heap %s, in all %s, limit %s", size(m.Live), size(m.Heap), size(m.InUse()), limit))
}

// wrap returns lines that have words with commas between, the first behind a head and the others as far indented.
func wrap(head string, words []string) []string {
	lines := []string{head}
	for i, word := range words {
		if i < len(words)-1 {
			word += ", "
		}
		last := &lines[len(lines)-1]
		if ansi.StringWidth(*last)+ansi.StringWidth(strings.TrimRight(word, " ")) > width && len(*last) > len(head) {
			*last = strings.TrimRight(*last, " ")
			lines = append(lines, strings.Repeat(" ", len(head)))
			last = &lines[len(lines)-1]
		}
		*last += word
	}
	return lines
}

func (t *tables) resourceTable() []string {
	all := slices.Clone(t.report.Resources)
	slices.SortStableFunc(all, resourceOrders[t.resources].less)
	table := newTable("<RESOURCE", ">OBJECTS", ">BYTES", ">EACH", ">WATCHES", ">EVENTS", ">HISTORY", ">AGE", ">BEHIND")
	left := 0
	for _, r := range all {
		switch {
		case !r.Ready:
			why := "not read yet"
			if r.Error != "" {
				why = r.Error
			}
			table.add(printable(r.Name, 34), printable(why, 55))
			continue
		case r.Objects == 0 && r.Watches <= 1 && r.History.Events == 0 && r.Behind == 0 && !t.all: // the server itself watches many
			left++
			continue
		}
		each := "-"
		if r.Objects > 0 {
			each = size(r.Bytes / int64(r.Objects))
		}
		table.add(printable(r.Name, 34), count(int64(r.Objects)), size(r.Bytes), each, count(int64(r.Watches)),
			count(int64(r.History.Events)), size(r.History.Bytes), seconds(r.History.Seconds), count(int64(r.Behind)))
	}
	lines := table.lines()
	if left > 0 {
		lines = append(lines, fmt.Sprintf("and %d %s without objects (--all)", left, map[bool]string{true: "resource", false: "resources"}[left == 1]))
	}
	return lines
}

func (t *tables) readerTable() []string {
	table := newTable("<RESOURCE", ">EVENTS", ">AGE", ">SENT", "<OF", "<USER", "<USER AGENT")
	for _, r := range t.report.Readers {
		of := "all"
		if r.Namespace != "" || r.Name != "" {
			of = strings.Trim(r.Namespace+"/"+r.Name, "/")
		}
		table.add(printable(r.Resource, 24), count(int64(r.Events)), seconds(r.Seconds), size(r.Bytes), printable(of, 16),
			printable(r.User, 20), printable(r.UserAgent, 24))
	}
	return table.lines()
}

func (t *tables) clientTable() []string {
	all := slices.Clone(t.report.Clients)
	slices.SortStableFunc(all, func(a, b status.Client) int {
		if a.Others != b.Others {
			return map[bool]int{true: 1, false: -1}[a.Others]
		}
		return clientOrders[t.clients].less(a, b)
	})
	sent := ">SENT"
	before, passed := t.earlier()
	if before != nil {
		sent = ">SENT/S"
	}
	table := newTable("<USER", "<USER AGENT", ">LISTS", ">DECODED", ">W.LISTS", ">WATCHES", ">OPEN", ">GZIP", sent, ">SEATS")
	for i, c := range all {
		if i == fewClients && !t.all {
			break
		}
		bytes := c.Bytes
		if before != nil {
			bytes = int64(float64(max(0, c.Bytes-before[clientKey(c)])) / passed)
		}
		user, agent := printable(c.User, 18), printable(c.UserAgent, 20)
		if c.Others {
			user, agent = "others", ""
		}
		table.add(user, agent, count(c.Lists), count(c.ListsDecoded), count(c.WatchLists), count(c.Watches), count(c.Watching),
			count(c.Compressed), size(bytes), count(c.Seats))
	}
	lines := table.lines()
	if n := len(all) - fewClients; n > 0 && !t.all {
		lines = append(lines, fmt.Sprintf("and %d more (--all)", n))
	}
	return lines
}

func clientKey(c status.Client) [2]string { return [2]string{c.User, c.UserAgent} }

// earlier returns what the clients had been sent by the time of the earlier report, and how many seconds ago that was; nil if
// there is none of the same run of the server.
func (t *tables) earlier() (bytes map[[2]string]int64, passed float64) {
	if t.before == nil || !t.before.Started.Equal(t.report.Started) {
		return nil, 0
	}
	if passed = t.report.Time.Sub(t.before.Time).Seconds(); passed <= 0 {
		return nil, 0
	}
	bytes = map[[2]string]int64{}
	for _, c := range t.before.Clients {
		bytes[clientKey(c)] += c.Bytes
	}
	return bytes, passed
}

// table has cells, which it puts into columns.
type table struct {
	right []bool
	rows  [][]string
}

// newTable returns a table with these titles, each behind < or >: to which side its column is aligned.
func newTable(titles ...string) *table {
	t := &table{}
	var row []string
	for _, title := range titles {
		t.right = append(t.right, title[0] == '>')
		row = append(row, title[1:])
	}
	t.rows = append(t.rows, row)
	return t
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) lines() []string {
	widths := make([]int, len(t.right))
	for _, row := range t.rows {
		if len(row) != len(t.right) {
			continue // a remark in place of cells does not make its column wide
		}
		for i, cell := range row {
			widths[i] = max(widths[i], ansi.StringWidth(cell))
		}
	}
	var lines []string
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", max(0, widths[i]-ansi.StringWidth(cell)))
			if i > 0 {
				line.WriteString("  ")
			}
			if t.right[i] && len(row) == len(t.right) {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
		}
		lines = append(lines, line.String())
	}
	return lines
}

// printable returns at most so many columns of what somebody else has written, as it can be shown: what is not a letter, number,
// mark of punctuation, symbol or plain space is escaped, so that it moves no cursor, hides nothing and takes the columns that
// it seems to.
func printable(s string, columns int) string {
	var b strings.Builder
	for _, r := range s {
		if b.Len() > 8*columns {
			break // long enough, however it is shown
		}
		switch {
		case r == unicode.ReplacementChar:
			b.WriteString("\\ufffd") // or a byte that is no UTF-8
		case r == ' ' || unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, "\\U%08x", r)
		default:
			fmt.Fprintf(&b, "\\u%04x", r)
		}
	}
	return ansi.Truncate(b.String(), columns, "…")
}

// size returns a number of bytes in three digits or so.
func size(n int64) string {
	units := []string{"kB", "MB", "GB", "TB"}
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	unit := ""
	for _, unit = range units {
		if f /= 1000; f < 999.5 {
			break
		}
	}
	if f < 9.95 {
		return fmt.Sprintf("%.1f %s", f, unit)
	}
	return fmt.Sprintf("%.0f %s", f, unit)
}

// count returns a number that takes at most six columns.
func count(n int64) string {
	switch {
	case n < 1_000_000:
		return fmt.Sprint(n)
	case n < 1_000_000_000:
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	default:
		return fmt.Sprintf("%.1fG", float64(n)/1e9)
	}
}

func seconds(s float64) string {
	switch {
	case s == 0:
		return "-"
	case s < 10:
		return fmt.Sprintf("%.1fs", s)
	case s < 600:
		return fmt.Sprintf("%.0fs", s)
	default:
		return fmt.Sprintf("%.0fm", s/60)
	}
}
