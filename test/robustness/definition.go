// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

const definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// definition is that of widgets: two versions, one schema, stored in the first. What changes are optional fields and columns, by
// their numbers.
func definition(fields, columns int) map[string]any {
	text := map[string]any{"type": "string"}
	properties := map[string]any{"data": map[string]any{"type": "object", "additionalProperties": text}, "color": text}
	for i := range fields {
		properties[fmt.Sprintf("field%d", i)] = text
	}
	var printed []any
	for i := range columns {
		printed = append(printed, map[string]any{"name": fmt.Sprintf("Color%d", i), "type": "string", "jsonPath": ".color"})
	}
	var list []any
	for i, v := range versions {
		list = append(list, map[string]any{
			"name": v, "served": true, "storage": i == 0,
			"schema":                   map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": properties}},
			"additionalPrinterColumns": printed,
			"selectableFields":         []any{map[string]any{"jsonPath": ".color"}},
		})
	}
	return map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": widgets + "." + group},
		"spec": map[string]any{
			"group": group, "scope": "Namespaced", "versions": list,
			"names": map[string]any{"plural": widgets, "singular": "widget", "kind": kind, "listKind": kind + "List"},
		},
	}
}

// define makes the definition of widgets and waits until all servers serve both versions.
func (r *Run) define(ctx context.Context) error {
	if err := r.sendDefinition(ctx, 0, http.MethodPost, definitions, plainJSON, definition(0, 0)); err != nil {
		return fmt.Errorf("define widgets: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, truthPatience)
	defer cancel()
	for _, s := range r.servers {
		for _, v := range versions {
			for served := false; !served; {
				if ctx.Err() != nil {
					return fmt.Errorf("wait until %s serves widgets in %s: %w", s.name, v, context.Cause(ctx))
				}
				l := &history.List{Scope: history.Scope{Resource: widgets, Version: v}, Format: string(inJSON), Mode: history.Consistent}
				if served = r.list(ctx, s.rig.HTTP, s, l); !served {
					wait(ctx, retry)
				}
			}
		}
	}
	return nil
}

// redefines changes the definition of widgets again and again, at either server. What is in etcd stays as it is. Watches of
// widgets may end then, and what was before may be gone; nothing of what they deliver may be another.
func (r *Run) redefines(ctx context.Context) {
	rnd := r.config.rand(streamDefinitions)
	for fields, columns := 0, 0; ; {
		pause := r.config.redefinition(rnd)
		at, next := rnd.IntN(weirs), rnd.IntN(3)
		if wait(ctx, pause); ctx.Err() != nil {
			return
		}
		switch next {
		case 0:
			fields = (fields + 1) % 5
		case 1:
			columns = (columns + 1) % 4
		default:
			fields, columns = (fields+1)%5, (columns+3)%4
		}
		if r.down(at) {
			at = (at + 1) % weirs
		}
		changed := map[string]any{"spec": definition(fields, columns)["spec"]}
		if err := r.sendDefinition(ctx, at, http.MethodPatch, definitions+"/"+widgets+"."+group, mergePatch, changed); err == nil {
			r.stats.definitions.Add(1)
		}
	}
}

// redefinition is how long the definition stays as it is: so long that most keep what was before, and that it changes in a
// short run too.
func (c Config) redefinition(r *rand.Rand) time.Duration {
	return c.history()/2 + time.Duration(r.Int64N(int64(c.history())*3/2))
}

func (r *Run) sendDefinition(ctx context.Context, at int, method, path, contentType string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, headerPatience)
	defer cancel()
	s := r.servers[at]
	req, err := http.NewRequestWithContext(ctx, method, s.rig.Base+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	s.rig.Authorize(req)
	req.Header.Set("Content-Type", contentType)
	resp, err := s.rig.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		r.refusals.note(fmt.Sprintf("definition %s %d", method, resp.StatusCode), answer)
		return fmt.Errorf("answered %d: %.500s", resp.StatusCode, answer)
	}
	return nil
}
