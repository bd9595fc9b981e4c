// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"cmp"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

// Draw writes the page of a history's file. name is its heading.
func Draw(out io.Writer, path, name string) error {
	s, err := load(path)
	if err != nil {
		return err
	}
	page := pageOf{Name: name, Begin: s.begin.UTC().Format(time.RFC3339), Span: s.end.Sub(s.begin).Round(time.Second), Faults: len(s.faults), Changes: len(s.changes)}
	page.Bad, page.More, page.Whole = len(s.bad)+s.more, s.more, s.whole()
	for i, b := range s.bad {
		page.Parts = append(page.Parts, s.part(i+1, b))
	}
	return pageTemplate.Execute(out, page)
}

// pageOf is what the template shows.
type pageOf struct {
	Name, Begin                string
	Span                       time.Duration
	Bad, More, Faults, Changes int
	Whole                      template.HTML
	Parts                      []partOf
}

// partOf is about one record.
type partOf struct {
	Number int
	What   string
	Rules  string
	Said   []string
	More   int
	Chart  template.HTML
	Table  *tableOf
}

// whole is the chart of the whole run.
func (s *story) whole() template.HTML {
	c := newChart(s.begin, s.end)
	s.lanes(c)
	c.lane("etcd's revision")
	for i := range 12 {
		t := s.begin.Add(s.end.Sub(s.begin) * time.Duration(i) / 12)
		if rev := s.revisionAt(t); rev > 0 {
			c.tick(t, "truth", fmt.Sprint(rev), fmt.Sprintf("revision %d", rev))
		}
	}
	for i, b := range s.bad {
		c.lane(fmt.Sprintf("%d. %s", i+1, b.Violations[0].Rule))
		from, to := b.span()
		if !from.IsZero() {
			c.bar(span{from: from, to: to, class: "bad", full: b.Violations[0].What})
		}
		c.tick(b.at, "wrong", b.title(), b.Violations[0].Text)
	}
	return c.svg()
}

// title is a few words about a record.
func (b *badRecord) title() string {
	what := b.Violations[0].What
	if len(what) > 60 {
		what = what[:60] + "…"
	}
	return what
}

func (s *story) revisionAt(t time.Time) int64 {
	i, _ := slices.BinarySearchFunc(s.changes, t, func(c history.Change, t time.Time) int { return c.At.Compare(t) })
	if i == 0 {
		return 0
	}
	return s.changes[i-1].Revision
}

// lanes are those of the servers, with what was done to them.
func (s *story) lanes(c *chart) {
	for _, server := range s.servers {
		c.lane(server)
		c.bar(span{from: s.begin, to: s.end, class: "up", full: server})
		for _, f := range s.faults {
			if cmp.Or(f.Server, elsewhere) == server {
				c.bar(faultSpan(f))
			}
		}
	}
}

func faultSpan(f history.Fault) span {
	class := "fault"
	switch {
	case strings.Contains(f.Kind, "kill"), strings.Contains(f.Kind, "memory"):
		class = "down"
	case strings.Contains(f.Kind, "pause"):
		class = "paused"
	}
	full := fmt.Sprintf("%s, %s to %s, %v", f.Kind, clock(f.Begin), clock(f.End), f.End.Sub(f.Begin).Round(time.Millisecond))
	return span{from: f.Begin, to: f.End, class: class, text: f.Kind, full: full}
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }

func watchSpan(w *history.Watch) span {
	full := fmt.Sprintf("watch %d (%s) at %s, %s, %s %d, status %d, %s to %s; ended: %s", w.ID, w.Role, w.Server, w.Format, w.Start, w.From, w.Status, clock(w.Opened), clock(w.Closed), w.End)
	return span{from: w.Opened, to: w.Closed, class: "watch", text: fmt.Sprintf("%d at %s", w.ID, w.Server), full: full}
}

func writeSpan(w *history.Write) span {
	text, class := fmt.Sprintf("%s at %s", w.Verb, w.Server), "write"
	switch {
	case w.Outcome == history.Refused:
		text, class = fmt.Sprintf("%s: %d", text, w.Status), "refused"
	case w.Outcome == history.Unanswered:
		text, class = text+": ?", "open"
	case w.Revision > 0:
		text = fmt.Sprintf("%s: %d", text, w.Revision)
	}
	full := fmt.Sprintf("%s, mark %s, of revision %d: %s %d, revision %d, uid %s, mark %s, deleted: %t; %s to %s",
		w.Verb, w.Sent, w.Base, w.Outcome, w.Status, w.Revision, w.UID, w.Op, w.Deleted, clock(w.Begun), clock(w.At))
	return span{from: w.Begun, to: w.At, class: class, text: text, full: full}
}

func readSpan(r *history.Read) span {
	text := fmt.Sprintf("GET at %s: nothing", r.Server)
	if r.Found {
		text = fmt.Sprintf("GET at %s: %d", r.Server, r.Revision)
	}
	full := fmt.Sprintf("read %d (%s), known %d: found: %t, revision %d, uid %s, mark %s; %s to %s", r.ID, r.Mode, r.Known, r.Found, r.Revision, r.UID, r.Op, clock(r.Opened), clock(r.Closed))
	return span{from: r.Opened, to: r.Closed, class: "read", text: text, full: full}
}

// said is how many violations of a record are told.
const said = 8

// part is what is shown of a record.
func (s *story) part(number int, b *badRecord) partOf {
	p := partOf{Number: number, What: b.Violations[0].What, Chart: s.around(b), Table: s.table(b)}
	for _, r := range rules(b.Violations) {
		p.Rules = strings.TrimPrefix(p.Rules+", "+string(r), ", ")
	}
	for i, v := range b.Violations {
		if i == said {
			p.More = len(b.Violations) - said
			break
		}
		p.Said = append(p.Said, fmt.Sprintf("%s: %s", v.Rule, v.Text))
	}
	return p
}

// around is the chart of some seconds around a violation; of an object's reads and writes, of less.
func (s *story) around(b *badRecord) template.HTML {
	margin := 4 * time.Second
	if b.object() != (history.Key{}) {
		margin = time.Second
	}
	c := newChart(b.at.Add(-margin), b.at.Add(margin))
	s.lanes(c)
	if scope := b.scope(); scope != nil {
		c.lane("etcd, of this scope")
		for _, ch := range s.changes {
			if !c.overlaps(ch.At, ch.At) || !scope.Selects(ch.Key, ch.Prev) && !scope.Selects(ch.Key, ch.Next) {
				continue
			}
			class := "truth"
			if ch.Revision == b.revision {
				class = "wrong"
			}
			c.tick(ch.At, class, fmt.Sprint(ch.Revision), fmt.Sprintf("revision %d at %s: %s", ch.Revision, clock(ch.At), changed(ch)))
		}
	}
	from, to := b.span()
	switch {
	case b.Twins != nil:
		c.lane("the list")
		c.bar(span{from: from, to: from, class: "bad", text: "list at " + b.Twins.List.Server, full: b.Violations[0].What})
	case b.object() == history.Key{} && !from.IsZero():
		c.lane("this one")
		c.bar(span{from: from, to: to, class: "bad", text: b.title(), full: b.Violations[0].What})
	}
	slices.SortStableFunc(b.beside, func(a, b span) int { return a.from.Compare(b.from) })
	switch {
	case b.object() != history.Key{}:
		c.rows("reads and writes", b.beside, 14)
	case b.Twins != nil:
		c.rows("its twins", b.beside, 20)
	default:
		c.rows("others of its scope", b.beside, shownBeside)
	}
	c.across(b.at)
	return c.svg()
}

func changed(c history.Change) string {
	name := c.Key.Namespace + "/" + c.Key.Name
	if c.Next == nil {
		return name + " deleted"
	}
	text := name
	if c.Prev == nil || c.Prev.UID != c.Next.UID {
		text += " made"
	}
	if c.Next.Op != "" {
		text += ", mark " + c.Next.Op
	}
	if c.Next.Node != "" {
		text += ", " + c.Next.Node
	}
	for _, k := range sorted(c.Next.Labels) {
		text += fmt.Sprintf(", %s=%s", k, c.Next.Labels[k])
	}
	return text
}
