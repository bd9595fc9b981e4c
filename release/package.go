// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // the format
	"github.com/goreleaser/nfpm/v2/files"
)

// makePackage makes the Debian package of an architecture.
func (r *release) makePackage(arch string) error {
	info := nfpm.WithDefaults(&nfpm.Info{
		Name:        "weir",
		Arch:        arch,
		Platform:    "linux",
		Version:     r.version,
		Section:     "admin",
		Priority:    "optional",
		Maintainer:  "The weir Authors",
		Description: "Kubernetes API server that streams bytes encoded once\n kube-apiserver " + r.kubernetes + ", with a watch cache that holds each object as bytes\n encoded once. It stands where kube-apiserver stands, or runs by itself.",
		License:     "Apache-2.0",
		MTime:       r.time,
		Overridables: nfpm.Overridables{
			Depends: []string{"adduser"},
			Contents: files.Contents{
				{Source: r.binary(arch), Destination: "/usr/bin/weir", FileInfo: &files.ContentFileInfo{Mode: 0o755, MTime: r.time}},
				{Source: "/usr/bin/weir", Destination: "/usr/lib/weir/kube-apiserver", Type: files.TypeSymlink, FileInfo: &files.ContentFileInfo{MTime: r.time}},
				{Source: filepath.Join(r.files, "weir.service"), Destination: "/usr/lib/systemd/system/weir.service", FileInfo: &files.ContentFileInfo{Mode: 0o644, MTime: r.time}},
				{Source: filepath.Join(r.files, "weir.default"), Destination: "/etc/default/weir", Type: files.TypeConfigNoReplace, FileInfo: &files.ContentFileInfo{Mode: 0o644, MTime: r.time}},
			},
			Scripts: nfpm.Scripts{PostInstall: filepath.Join(r.files, "postinst"), PreRemove: filepath.Join(r.files, "prerm")},
		},
	})
	if err := nfpm.PrepareForPackager(info, "deb"); err != nil {
		return err
	}
	packager, err := nfpm.Get("deb")
	if err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(r.dist, packager.ConventionalFileName(info)))
	if err != nil {
		return err
	}
	if err := packager.Package(info, file); err != nil {
		_ = file.Close()
		return err
	}
	return file.Close()
}

const sums = "SHA256SUMS"

// makeSums writes the checksums of all files that were made, in the form that sha256sum --check takes.
func (r *release) makeSums() error {
	var lines []string
	err := filepath.WalkDir(r.dist, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == sums {
			return err
		}
		sum, err := sumOf(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(r.dist, path)
		lines = append(lines, sum+"  "+filepath.ToSlash(relative)+"\n")
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot add up the checksums: %w", err)
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[64:], b[64:]) })
	return os.WriteFile(filepath.Join(r.dist, sums), []byte(strings.Join(lines, "")), 0o644)
}

func sumOf(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, bufio.NewReader(file)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
