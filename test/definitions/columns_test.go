// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package definitions

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
)

// TestColumnsOfWatches changes the columns of a definition, back and forth, while a Table of its objects is watched. Who begins to watch when the new columns are
// served gets the cells of these, and not those that were made for who has watched before.
func TestColumnsOfWatches(t *testing.T) {
	const objects = 4
	s := servers.Start(t, servers.Weir, etcd.Run(t).Endpoints()[0]).Wait()
	path := gadgetsPrefix + "v1/namespaces/default/gadgets"
	s.Must(http.MethodPost, crds, define("versions.example.com", "Gadget", "Namespaced", gadgetVersion("v1", "v1", nil, column("text"))))
	servers.Eventually(t, "the definition to be served", func() bool {
		status, _ := s.Do(http.MethodGet, path, nil)
		return status == http.StatusOK
	})
	for i := range objects {
		s.Must(http.MethodPost, path, object{"apiVersion": "versions.example.com/v1", "kind": "Gadget", "metadata": object{"name": fmt.Sprint("g", i)},
			"spec": object{"text": "the text", "color": "the color"}})
	}
	// watched reads the initial events of a watch, which goes on.
	watched := func(column string) {
		t.Helper()
		resp, err := s.Open(t.Context(), get(path+"?watch=1&resourceVersion=0", asTable))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() }) // it is read no further
		events := json.NewDecoder(resp.Body)
		for i := range objects {
			var event struct {
				Object struct {
					ColumnDefinitions []struct{ Name string }
					Rows              []struct{ Cells []any }
				}
			}
			if err := events.Decode(&event); err != nil {
				t.Fatal(err)
			}
			if defined := event.Object.ColumnDefinitions; i == 0 && (len(defined) != 2 || defined[1].Name != column) {
				t.Fatalf("the columns are %v, want that of %s", defined, column)
			}
			if rows := event.Object.Rows; len(rows) != 1 || len(rows[0].Cells) != 2 || rows[0].Cells[1] != "the "+column {
				t.Errorf("event %d, under the column %s: %v", i, column, rows)
			}
		}
	}
	was := "text"
	for _, is := range []string{"color", "text", "color", "text", "color"} {
		watched(was)
		s.Must(http.MethodPatch, crds+"/"+gadgets, object{"spec": object{"versions": []object{gadgetVersion("v1", "v1", nil, column(is))}}})
		servers.Eventually(t, "the new columns to be served", func() bool {
			answer, err := s.Answer(t.Context(), get(path+"?limit=1", asTable))
			if err != nil {
				t.Fatal(err)
			}
			var table struct{ ColumnDefinitions []struct{ Name string } }
			return json.Unmarshal(answer.Body, &table) == nil && len(table.ColumnDefinitions) == 2 && table.ColumnDefinitions[1].Name == is
		})
		watched(is)
		was = is
	}
}
