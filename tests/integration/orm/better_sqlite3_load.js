// The load of orm-better-sqlite3.sh, as a Node program with better-sqlite3 would write it:
//
//   better_sqlite3_load.js DB MODE migrate VERSION         brings the tables to that version, as far as they are not
//   better_sqlite3_load.js DB MODE add ID N PAUSE THREADS  N transactions of three kinds, shared by so many threads, at most
//                                                          PAUSE ms between them, each an entry and one more in its
//                                                          account; ID tells the processes apart
//   better_sqlite3_load.js DB MODE watch FILE              transactions that read twice until FILE is there
//   better_sqlite3_load.js DB MODE backup FILE             a copy by SQLite's backup interface
//
// MODE: wal, which it switches on as the manual of better-sqlite3 says; otherwise what it finds. "database is locked" is an
// error always: the manual's way is to begin with a write, or with BEGIN IMMEDIATE.
'use strict';
const fs = require('fs');
const Database = require('better-sqlite3');
const { Worker, isMainThread, workerData, parentPort } = require('worker_threads');

const [file, mode, command, ...rest] = isMainThread ? process.argv.slice(2) : workerData;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const hold = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);

function open() {
  const db = new Database(file);
  if (mode === 'wal') {
    const now = db.pragma('journal_mode = WAL', { simple: true });
    if (now !== 'wal') throw new Error(`the journal mode is ${now}`);
  }
  return db;
}

const migrations = [
  `CREATE TABLE account(id INTEGER PRIMARY KEY, name TEXT NOT NULL, n INTEGER NOT NULL DEFAULT 0);
   CREATE TABLE entry(id INTEGER PRIMARY KEY, account_id INTEGER NOT NULL REFERENCES account, client INTEGER, seq INTEGER,
                      n INTEGER);
   INSERT INTO account(name) VALUES('by SQL'), ('by hand'), ('in between')`,
  `ALTER TABLE entry RENAME TO old_entry;
   CREATE TABLE entry(id INTEGER PRIMARY KEY, account_id INTEGER NOT NULL REFERENCES account, client INTEGER NOT NULL,
                      seq INTEGER NOT NULL, n INTEGER NOT NULL, CONSTRAINT once UNIQUE(client, seq));
   INSERT INTO entry SELECT * FROM old_entry;
   DROP TABLE old_entry;
   ALTER TABLE entry ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
   CREATE INDEX entry_account ON entry(account_id, n)`,
];

function migrate(version) {
  const db = open();
  const run = db.transaction(() => {
    for (let at = db.pragma('user_version', { simple: true }); at < version; at++) {
      db.exec(migrations[at]);
      db.pragma(`user_version = ${at + 1}`);
    }
  });
  run.exclusive();
  db.close();
}

async function add(client, count, longest, first, step) {
  const db = open();
  const more = db.prepare('UPDATE account SET n = n + 1 WHERE name = ? RETURNING id, n');
  const get = db.prepare('SELECT id, n FROM account WHERE name = ?');
  const set = db.prepare('UPDATE account SET n = ? WHERE id = ?');
  const insert = db.prepare('INSERT INTO entry(account_id, client, seq, n) VALUES(?, ?, ?, ?)');
  const bySql = db.transaction((seq) => {
    const account = more.get('by SQL');
    insert.run(account.id, client, seq, account.n);
  });
  const byHand = db.transaction((seq) => {
    const account = get.get('by hand');
    set.run(account.n + 1, account.id);
    insert.run(account.id, client, seq, account.n + 1);
  });
  // A transaction inside one is a savepoint; this one is rolled back first.
  const inBetween = db.transaction((seq) => {
    const account = more.get('in between');
    try {
      db.transaction(() => {
        more.get('by SQL');
        insert.run(account.id, client, -seq, 0);
        throw new RangeError('taken back');
      })();
    } catch (e) {
      if (!(e instanceof RangeError)) throw e;
    }
    insert.run(account.id, client, seq, account.n);
  });
  let slowest = 0;
  for (let seq = first; seq < count; seq += step) {
    const start = performance.now();
    if (seq % 4 === 3) byHand.immediate(seq);
    else if (seq % 4 === 1) inBetween(seq);
    else bySql(seq);
    slowest = Math.max(slowest, performance.now() - start);
    await pause(Math.random() * longest);
  }
  db.close();
  return slowest;
}

async function addInThreads(client, count, longest, threads) {
  const began = performance.now();
  const slowest = threads === 1
    ? [await add(client, count, longest, 0, 1)]
    : await Promise.all(Array.from({ length: threads }, (_, i) => new Promise((resolve, reject) => {
      const worker = new Worker(__filename, { workerData: [file, mode, 'thread', client, count, longest, i, threads] });
      worker.once('message', resolve);
      worker.once('error', reject);
    })));
  console.log(`client ${client}: ${count} transactions, ${threads} at once, in ${((performance.now() - began) / 1000).toFixed(1)} s, `
    + `the slowest ${Math.max(...slowest).toFixed(0)} ms`);
}

// A transaction sees one state as long as it lasts. A -wal file that grows is cut, as the manual says.
async function watch(enough) {
  const db = open();
  const sums = db.prepare(`SELECT name, n, (SELECT count(*) FROM entry WHERE account_id = account.id) AS entries
                           FROM account ORDER BY id`);
  const look = db.transaction(() => {
    const before = sums.all();
    hold(5);
    const after = sums.all();
    if (JSON.stringify(before) !== JSON.stringify(after)) {
      throw new Error(`two states in one transaction: ${JSON.stringify([before, after])}`);
    }
    const wrong = after.find((account) => account.n !== account.entries);
    if (wrong) throw new Error(`account ${JSON.stringify(wrong)}`);
  });
  let count = 0;
  let cuts = 0;
  while (!fs.existsSync(enough)) {
    look();
    count++;
    if (mode === 'wal' && count % 20 === 0 && fs.statSync(`${file}-wal`).size > 400000) {
      db.pragma('wal_checkpoint(RESTART)');
      cuts++;
    }
    await pause(30);
  }
  db.close();
  console.log(`watched ${count} times${mode === 'wal' ? `, ${cuts} checkpoints` : ''}`);
}

async function backup(to) {
  const db = open();
  await db.backup(to);
  db.close();
}

async function main() {
  if (command === 'migrate') migrate(Number(rest[0]));
  else if (command === 'add') await addInThreads(...rest.map(Number));
  else if (command === 'thread') parentPort.postMessage(await add(...rest));
  else if (command === 'watch') await watch(rest[0]);
  else if (command === 'backup') await backup(rest[0]);
  else throw new Error('usage: see the head of better_sqlite3_load.js');
}

main().catch((e) => {
  console.error(e);
  process.exit(1);
});
