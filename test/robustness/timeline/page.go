// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package timeline

import "html/template"

// pageTemplate is the page. It needs nothing from elsewhere.
var pageTemplate = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/><title>{{.Name}}</title>
<style>
body { font: 13px/1.4 sans-serif; margin: 1em; color: #222; max-width: 1270px; }
h1 { font-size: 18px; } h2 { font-size: 15px; margin: 1.6em 0 0.3em; border-top: 2px solid #c22; padding-top: 0.5em; }
svg { display: block; margin: 0.5em 0; } text { font: 11px sans-serif; fill: #222; }
text.name { text-anchor: end; } text.time { fill: #666; text-anchor: middle; }
line.lane { stroke: #e4e4e4; } line.tick { stroke: #555; } line.across { stroke: #c22; stroke-dasharray: 3 3; }
line.wrong { stroke: #c22; stroke-width: 3; } text.wrong { fill: #c22; font-weight: bold; }
rect.up { fill: #cfe8d2; } rect.down { fill: #333; } text.down { fill: #fff; } rect.paused { fill: #999; }
rect.fault { fill: #f0b44c; } rect.bad { fill: #f3b0b0; stroke: #c22; } rect.watch { fill: #bcd3ee; }
rect.write { fill: #bcd3ee; stroke: #47a; } rect.read { fill: #d5ecd5; stroke: #4a6; } rect.refused { fill: #eee; stroke: #999; }
rect.open { fill: #f7e3c0; stroke: #b80; stroke-dasharray: 3 2; }
table { border-collapse: collapse; margin: 0.5em 0; } td, th { border: 1px solid #ccc; padding: 1px 6px; text-align: left; font-size: 12px; vertical-align: top; }
th { background: #f2f2f2; } tr.wrong td { background: #fbdcdc; } li { margin: 0.15em 0; overflow-wrap: anywhere; }
.key span { padding: 0 0.5em; margin-right: 0.5em; }
</style></head><body>
<h1>{{.Name}}</h1>
<p>From {{.Begin}}, {{.Span}}. {{.Faults}} faults, {{.Changes}} changes in etcd, {{.Bad}} records with violations{{if .More}}, of which the first are below{{end}}.
Times are UTC. A pointer that rests on a bar shows all of it.{{if not .Changes}} The history does not have what was in etcd: the run was
ended soon after the violation.{{end}}</p>
<p class="key"><span style="background:#cfe8d2">up</span><span style="background:#333;color:#fff">killed</span><span style="background:#999">paused</span><span
style="background:#f0b44c">another fault</span><span style="background:#f3b0b0">a record with violations</span><span style="color:#c22">| the violation</span></p>
{{.Whole}}
{{range .Parts}}
<h2>{{.Number}}. {{.Rules}}: {{.What}}</h2>
<ul>{{range .Said}}<li>{{.}}</li>{{end}}{{if .More}}<li>and {{.More}} more</li>{{end}}</ul>
{{.Chart}}
{{with .Table}}<table><tr>{{range .Head}}<th>{{.}}</th>{{end}}</tr>
{{range .Rows}}<tr{{if .Wrong}} class="wrong"{{end}}>{{range .Cells}}<td>{{.}}</td>{{end}}</tr>
{{end}}</table>{{end}}
{{end}}
</body></html>
`))
