// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package definitions

import (
	"bytes"
	"slices"
	"testing"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	client "k8s.io/client-go/rest"
	"k8s.io/kubectl/pkg/cmd/explain"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"github.com/weir-project/weir/test/servers"
)

// explained has kubectl explain what the definitions describe, by both versions of OpenAPI, and holds what it prints of weir against what it prints of stock.
func (p *pair) explained(t *testing.T) {
	for _, what := range []string{"widgets.a.example.com", "widgets.a.example.com.spec", "widgets.a.example.com.spec.keyed", "customresourcedefinitions", "pods.spec"} {
		for _, output := range []string{"plaintext", "plaintext-openapiv2"} {
			weir, stock := kubectlExplains(t, p.weir, what, output), kubectlExplains(t, p.stock, what, output)
			if !bytes.Equal(weir, stock) {
				t.Errorf("%s in %s is explained as\n%s\nstock's\n%s", what, output, weir, stock)
			}
			if !slices.ContainsFunc([]string{"KIND", "FIELDS"}, func(word string) bool { return bytes.Contains(weir, []byte(word)) }) {
				t.Errorf("%s in %s is not explained:\n%s", what, output, weir)
			}
		}
	}
}

func kubectlExplains(t *testing.T, s *servers.Server, what, output string) []byte {
	t.Helper()
	config, err := s.Rig.RESTConfig("kubectl")
	if err != nil {
		t.Fatal(err)
	}
	cacheDir := t.TempDir()
	flags := genericclioptions.NewConfigFlags(false).WithWrapConfigFn(func(*client.Config) *client.Config { return client.CopyConfig(config) })
	flags.APIServer, flags.CacheDir = &config.Host, &cacheDir
	var out bytes.Buffer
	e := explain.NewExplainFlags(genericiooptions.IOStreams{Out: &out, ErrOut: &out})
	e.Recursive, e.OutputFormat = true, output
	options, err := e.ToOptions(cmdutil.NewFactory(flags), "kubectl", []string{what})
	if err != nil {
		t.Fatalf("%s: explaining %s: %v", s.Name, what, err)
	}
	if err := options.Run(); err != nil {
		t.Fatalf("%s: explaining %s: %v", s.Name, what, err)
	}
	return out.Bytes()
}
