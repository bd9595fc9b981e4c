// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lies

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Env is the variable in the environment of a program with planted lies that names the one that it tells.
const Env = "WEIR_LIE"

// planted is a file that each package with lies gets. %s are its name and that of the variable in the environment.
const planted = `package %s

import (
	"os"
	"sync"
	"sync/atomic"
)

var (
	plantedLie     = os.Getenv(%q)
	plantedChances atomic.Uint64
	planted        sync.Map
)

var _ = &planted

func plantedTells(name string, n uint64) bool {
	return plantedLie == name && plantedChances.Add(1)%%n == 0
}
`

// plantedFile is its name.
const plantedFile = "planted_lies.go"

// Plant writes changed sources of weir, whose directory internal is given, into an existing directory, and returns the path
// of an overlay for go build. It fails for a text that is not found exactly once.
func Plant(internal, dir string, all []Lie) (overlay string, err error) {
	if internal, err = filepath.Abs(internal); err != nil {
		return "", err
	}
	sources, err := edited(internal, all)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for path, source := range sources {
		name := filepath.Join(dir, strings.ReplaceAll(path, string(filepath.Separator), "-"))
		if err := os.WriteFile(name, source, 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(internal, path)] = name
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, data, 0o600)
}

// place is where in a file an edit goes.
type place struct {
	from, to int
	put      string
	lie      string
}

// edited returns the sources with lies in them, by their paths below internal.
func edited(internal string, all []Lie) (map[string][]byte, error) {
	files := map[string][]place{}
	originals := map[string]string{}
	var failures []error
	for _, lie := range all {
		for _, e := range lie.Edits {
			if _, read := originals[e.File]; !read {
				data, err := os.ReadFile(filepath.Join(internal, e.File))
				if err != nil {
					return nil, fmt.Errorf("lie %s: %w", lie.Name, err)
				}
				originals[e.File] = string(data)
			}
			if n := strings.Count(originals[e.File], e.Find); n != 1 {
				failures = append(failures, fmt.Errorf("lie %s: internal/%s has this %d times, not once, so that the lie has to be planted anew:\n%s", lie.Name, e.File, n, e.Find))
				continue
			}
			at := strings.Index(originals[e.File], e.Find)
			files[e.File] = append(files[e.File], place{at, at + len(e.Find), expand(e.Put, lie.Name), lie.Name})
		}
	}
	sources := map[string][]byte{}
	for file, places := range files {
		source, pkg, err := edit(originals[file], places)
		if err != nil {
			failures = append(failures, fmt.Errorf("internal/%s: %w", file, err))
			continue
		}
		sources[file] = source
		sources[filepath.Join(filepath.Dir(file), plantedFile)] = fmt.Appendf(nil, planted, pkg, Env)
	}
	return sources, errors.Join(failures...)
}

var chance = regexp.MustCompile(`\bLIE\((\d+)\)`)

func expand(put, name string) string {
	put = strings.ReplaceAll(put, "LYING", fmt.Sprintf("plantedLie == %q", name))
	return chance.ReplaceAllString(put, fmt.Sprintf("plantedTells(%q, $1)", name))
}

// edit returns a source with edits made, and its package.
func edit(source string, places []place) (changed []byte, pkg string, err error) {
	slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.from, b.from) })
	var b strings.Builder
	at, before := 0, ""
	for _, p := range places {
		if p.from < at {
			return nil, "", fmt.Errorf("lies %s and %s overlap", before, p.lie)
		}
		b.WriteString(source[at:p.from])
		b.WriteString(p.put)
		at, before = p.to, p.lie
	}
	b.WriteString(source[at:])
	f, err := parser.ParseFile(token.NewFileSet(), "", b.String(), parser.PackageClauseOnly)
	if err != nil {
		return nil, "", err
	}
	changed, err = format.Source([]byte(b.String()))
	return changed, f.Name.Name, err
}
