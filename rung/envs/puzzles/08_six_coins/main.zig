const std = @import("std");

pub fn main() void {
    var ways = std.mem.zeroes([41][701]u64); // [coins][amount]
    ways[0][0] = 1;
    for ([_]usize{ 3, 7, 11, 19, 31, 53 }) |coin| {
        for (1..41) |coins| {
            for (coin..701) |amount| ways[coins][amount] += ways[coins - 1][amount - coin];
        }
    }
    var total: u64 = 0;
    for (ways) |row| total += row[700];
    print(total);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
