//! Embedded databases as logs: a key per position, in order.

use std::path::Path;

use anyhow::Result;
use bytes::Bytes;

/// When a batch is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Whenever the system does it.
    Never,
    /// Before the append returns.
    Always,
}

pub(crate) trait Peer {
    fn name(&self) -> &'static str;
    fn open(&self, dir: &Path, sync: Sync) -> Result<Box<dyn Db>>;
}

pub(crate) trait Db {
    fn append(&mut self, first: u64, bodies: &[Bytes]) -> Result<()>;
    fn replay(&self, each: &mut dyn FnMut(&[u8])) -> Result<()>;
}

pub(crate) fn all() -> Vec<Box<dyn Peer>> {
    vec![Box::new(Fjall), Box::new(Redb), Box::new(Sqlite)]
}

struct Fjall;

struct FjallDb {
    keyspace: fjall::Keyspace,
    partition: fjall::PartitionHandle,
    sync: Sync,
}

impl Peer for Fjall {
    fn name(&self) -> &'static str {
        "fjall"
    }

    fn open(&self, dir: &Path, sync: Sync) -> Result<Box<dyn Db>> {
        let keyspace = fjall::Config::new(dir).open()?;
        let partition = keyspace.open_partition("log", fjall::PartitionCreateOptions::default())?;
        Ok(Box::new(FjallDb { keyspace, partition, sync }))
    }
}

impl Db for FjallDb {
    fn append(&mut self, first: u64, bodies: &[Bytes]) -> Result<()> {
        let mut batch = self.keyspace.batch();
        for (at, body) in (first..).zip(bodies) {
            batch.insert(&self.partition, at.to_be_bytes(), &body[..]);
        }
        batch.commit()?;
        self.keyspace.persist(match self.sync {
            Sync::Never => fjall::PersistMode::Buffer,
            Sync::Always => fjall::PersistMode::SyncData,
        })?;
        Ok(())
    }

    fn replay(&self, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        for entry in self.partition.iter() {
            each(&entry?.1);
        }
        Ok(())
    }
}

struct Redb;

const TABLE: redb::TableDefinition<'static, u64, &[u8]> = redb::TableDefinition::new("log");

struct RedbDb {
    db: redb::Database,
    sync: Sync,
}

impl Peer for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn open(&self, dir: &Path, sync: Sync) -> Result<Box<dyn Db>> {
        Ok(Box::new(RedbDb { db: redb::Database::create(dir.join("log.redb"))?, sync }))
    }
}

impl Db for RedbDb {
    fn append(&mut self, first: u64, bodies: &[Bytes]) -> Result<()> {
        let mut write = self.db.begin_write()?;
        if self.sync == Sync::Never {
            write.set_durability(redb::Durability::None);
        }
        {
            let mut table = write.open_table(TABLE)?;
            for (at, body) in (first..).zip(bodies) {
                table.insert(at, &body[..])?;
            }
        }
        write.commit()?;
        Ok(())
    }

    fn replay(&self, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        use redb::ReadableTable;
        let read = self.db.begin_read()?;
        let table = match read.open_table(TABLE) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
            table => table?,
        };
        for entry in table.iter()? {
            each(entry?.1.value());
        }
        Ok(())
    }
}

struct Sqlite;

struct SqliteDb(rusqlite::Connection);

impl Peer for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn open(&self, dir: &Path, sync: Sync) -> Result<Box<dyn Db>> {
        let db = rusqlite::Connection::open(dir.join("log.sqlite"))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", if sync == Sync::Never { "OFF" } else { "FULL" })?;
        db.execute("CREATE TABLE IF NOT EXISTS log (position INTEGER PRIMARY KEY, body BLOB)", [])?;
        Ok(Box::new(SqliteDb(db)))
    }
}

impl Db for SqliteDb {
    fn append(&mut self, first: u64, bodies: &[Bytes]) -> Result<()> {
        let write = self.0.transaction()?;
        {
            let mut insert = write.prepare_cached("INSERT INTO log VALUES (?1, ?2)")?;
            for (at, body) in (first..).zip(bodies) {
                insert.execute((i64::try_from(at)?, &body[..]))?;
            }
        }
        write.commit()?;
        Ok(())
    }

    fn replay(&self, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let mut select = self.0.prepare("SELECT body FROM log ORDER BY position")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            each(row.get_ref(0)?.as_blob()?);
        }
        Ok(())
    }
}
