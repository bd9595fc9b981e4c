// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	utilversion "k8s.io/component-base/version"
	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/internal/buildinfo"
)

// versions is what `weir version` says.
type versions struct {
	buildinfo.Info
	// Kubernetes is the release whose API is served.
	Kubernetes string `json:"kubernetes"`
}

func newVersionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Say which weir and which Kubernetes this is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return writeVersion(cmd.OutOrStdout(), versions{Info: buildinfo.Get(), Kubernetes: utilversion.Get().GitVersion}, output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json or yaml in place of lines")
	return cmd
}

func writeVersion(w io.Writer, v versions, output string) error {
	switch output {
	case "":
		commit := v.Commit
		if v.Modified {
			commit += " (with changes)"
		}
		_, err := fmt.Fprintf(w, "weir        %s\ncommit      %s\nKubernetes  %s\nGo          %s %s\n", v.Version, commit, v.Kubernetes, v.Go, v.Platform)
		return err
	case "json":
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		return out.Encode(v)
	case "yaml":
		text, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("cannot write the version as YAML: %w", err)
		}
		_, err = w.Write(text)
		return err
	default:
		return fmt.Errorf("cannot write the version as %q: --output takes json or yaml", output)
	}
}
