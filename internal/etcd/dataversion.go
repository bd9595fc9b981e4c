// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/coreos/go-semver/semver"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// CheckDir says no to an etcd directory that Start could not use: one that a newer etcd
// has written, or that a process uses which does not know weir's lock. It writes nothing; etcd
// itself finds out by a panic, and only after it has created files. A directory that is
// not there yet is fine.
func CheckDir(dir string) error {
	path := filepath.Join(dir, "member", "snap", "db")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("the etcd database %s is %w by another process: stop it, or choose another --data-dir", path, ErrInUse)
	}
	if err != nil {
		return fmt.Errorf("cannot read the etcd database %s: %w", path, err)
	}
	defer func() { _ = db.Close() }()

	var storage, cluster *semver.Version
	err = db.View(func(tx *bolt.Tx) error {
		// etcd 3.6 and later store the version of their schema; the cluster's version
		// is older and is what a member refuses to go below.
		if tx.Bucket(schema.Meta.Name()) != nil {
			storage = schema.ReadStorageVersionFromSnapshot(tx)
		}
		if b := tx.Bucket(schema.Cluster.Name()); b != nil {
			if v, err := semver.NewVersion(string(b.Get(schema.ClusterClusterVersionKeyName))); err == nil {
				cluster = v
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot read the version in the etcd database %s: %w", path, err)
	}
	own := semver.New(version.Version)
	own = &semver.Version{Major: own.Major, Minor: own.Minor}
	for _, v := range []*semver.Version{storage, cluster} {
		if v != nil && own.LessThan(semver.Version{Major: v.Major, Minor: v.Minor}) {
			return fmt.Errorf("%s was written by etcd %d.%d, newer than the built-in %s: use a weir with that etcd, or run that etcd and name it with --etcd-servers",
				dir, v.Major, v.Minor, version.Version)
		}
	}
	return nil
}
